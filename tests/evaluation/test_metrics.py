"""Image metrics against other libraries and the published figures."""

import numpy as np
import pytest
import torch
import torchvision
from nsff.errors import InputError
from nsff.evaluation.metrics import (
    Lpips,
    Rules,
    compare,
    load_lpips,
    masked_ssim,
    mean_lpips,
    mean_ssim,
    psnr,
    ssim_map,
)
from nsff.evaluation.protocols import PROTOCOLS
from nsff.evaluation.scores import ImageScores, RegionScores, ViewScore, finite_or_null, mean_of_views
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, render and mask; float64, as scikit-image rounds its mean to the precision of the images."""
    rng = np.random.default_rng(0)
    truth = rng.random((40, 50, 3))
    render = (truth + 0.1 * rng.standard_normal(truth.shape)).clip(0, 1)
    mask = np.zeros((40, 50), bool)
    mask[10:20, 5:30] = True
    return truth, render, mask


def test_psnr_matches_skimage(pair):
    truth, render, mask = pair
    assert psnr(truth, render) == pytest.approx(peak_signal_noise_ratio(truth, render, data_range=1.0), abs=1e-6)
    inside = peak_signal_noise_ratio(truth[10:20, 5:30], render[10:20, 5:30], data_range=1.0)
    assert psnr(truth, render, mask) == pytest.approx(inside, abs=1e-6)
    assert psnr(truth, render, np.zeros_like(mask)) == 0.0
    assert psnr(truth, truth) == float("inf")


def test_ssim_matches_skimage(pair):
    truth, render, mask = pair
    for data_range in (1.0, 2.0):
        expected, full = structural_similarity(truth, render, channel_axis=-1, data_range=data_range, full=True)
        similarity = ssim_map(truth, render, data_range)
        assert mean_ssim(similarity) == pytest.approx(expected, abs=1e-9)
        assert mean_ssim(similarity, mask) == pytest.approx(full[10:20, 5:30].mean(), abs=1e-9)
    assert mean_ssim(ssim_map(truth, truth), mask) == pytest.approx(1.0, abs=1e-6)
    assert mean_ssim(ssim_map(truth, render), np.zeros_like(mask)) == 0.0


def test_masked_ssim_ignores_pixels_outside_mask(pair):
    truth, render, mask = pair
    elsewhere = np.where(mask[..., None], render, 0.3)
    assert masked_ssim(truth, elsewhere, mask) == pytest.approx(masked_ssim(truth, render, mask), abs=1e-12)
    assert masked_ssim(truth, truth, mask) == pytest.approx(1.0)
    assert masked_ssim(truth, render, np.zeros_like(mask)) == 0.0
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    whole = structural_similarity(truth, render, channel_axis=-1, data_range=1.0, full=True, **options)[1]
    assert masked_ssim(truth, render) == pytest.approx(float(whole.mean()), abs=0.02)  # borders differ


def test_lpips_matches_published_figures(golden, trunk):
    with np.load(golden / "nets/figures.npz") as data:
        first, second = (data[f"lpips/{name}"].transpose(1, 2, 0) for name in ("img0", "img1"))
        mask, published = data["lpips/mask"] > 0.5, {s: data[f"lpips/{s}"] for s in ("as_published", "scaled")}
    for scaled, name in ((False, "as_published"), (True, "scaled")):
        distances = Lpips(trunk, scaled, CPU)(first, second)
        ours = [mean_lpips(distances, region) for region in (None, mask, np.zeros_like(mask))]
        np.testing.assert_allclose(ours, published[name], rtol=1e-4, atol=1e-9)


def test_lpips_matches_its_package(pair, trunk):
    truth, render, mask = pair
    metric = Lpips(trunk, True, CPU)
    tensors = [torch.from_numpy(image).float().permute(2, 0, 1)[None] * 2 - 1 for image in (truth, render)]
    distances = metric(truth, render)
    with torch.no_grad():
        assert mean_lpips(distances) == pytest.approx(float(metric.model(*tensors)), rel=1e-5)
    assert mean_lpips(distances, np.ones_like(mask)) == pytest.approx(mean_lpips(distances), rel=1e-5)


def test_load_lpips_without_network_warns_and_returns_none(tmp_path, caplog, capsys, monkeypatch):
    def no_network(*_, **__):
        print("Downloading ...")
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.__class__, "get_state_dict", no_network)
    assert load_lpips(None, Rules(), CPU) is None
    assert "LPIPS is left out" in caplog.text
    assert capsys.readouterr().out == ""  # standard output is for the printed means
    (tmp_path / "rubbish.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"rubbish\.pth holds no AlexNet"):
        load_lpips(str(tmp_path / "rubbish.pth"), Rules(), CPU)


def test_compare_perfect_render_and_empty_masks(pair):
    truth, _, mask = pair
    truth = truth.astype(np.float32)
    fixed, published = PROTOCOLS["nsff-fixed"].rules, PROTOCOLS["nsff"].rules
    scores = compare(truth, truth, mask, fixed, None)
    assert scores.whole.psnr == scores.moving.psnr == float("inf")
    assert scores.static.ssim == pytest.approx(1.0)
    empty, full = np.zeros_like(mask), np.ones_like(mask)
    assert compare(truth, truth, empty, fixed, None).moving == RegionScores()
    assert compare(truth, truth, empty, published, None).moving.psnr == 0.0
    assert compare(truth, truth, full, fixed, None).static.ssim is None


def test_compare_scores_visible_pixels_only(pair):
    truth, _, mask = pair
    visible = np.zeros_like(mask)
    visible[:, :20] = True
    blackened = np.where(visible[..., None], truth, 0.0)
    scores = compare(truth, blackened, mask, PROTOCOLS["dycheck"].rules, None, visible)
    assert scores.whole.psnr == float("inf")


def test_mean_skips_undefined_scores():
    views = [
        ViewScore(name, ImageScores(RegionScores(psnr=value), RegionScores(), RegionScores()))
        for name, value in (("a", 20.0), ("b", 30.0))
    ]
    assert mean_of_views(views).image.whole == RegionScores(psnr=25.0, ssim=None, lpips=None)
    assert mean_of_views(views).seconds is None


def test_infinite_psnr_is_null_in_json():
    infinite = {"mean": {"psnr": float("inf")}, "views": [{"psnr": 3.5}, {"psnr": float("nan")}]}
    assert finite_or_null(infinite) == {"mean": {"psnr": None}, "views": [{"psnr": 3.5}, {"psnr": None}]}
