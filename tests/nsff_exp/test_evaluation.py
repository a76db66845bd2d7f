"""Metrics against other libraries and the published figures; the golden checkpoint rendered and evaluated."""

import dataclasses
import json
import shutil
import zlib

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torchvision
from nsff.config import InputError, UsageError
from nsff.evaluator import _write_json, evaluate, mean_of
from nsff.metrics import Lpips, load_lpips, psnr, ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

CPU = torch.device("cpu")


ALEXNET = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}


def rule(key: str, shape: tuple[int, ...], seed: int = 7) -> torch.Tensor:
    """Weights from a rule, so that none need to be stored (golden/README)."""
    x = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).randn(*shape)
    x = x * np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * x
    return torch.from_numpy(x.astype(np.float32))


@pytest.fixture(scope="session")
def trunk() -> dict[str, torch.Tensor]:
    state = {}
    for layer, (n_out, n_in, size) in ALEXNET.items():
        state[f"features.{layer}.weight"] = rule(f"features.{layer}.weight", (n_out, n_in, size, size))
        state[f"features.{layer}.bias"] = rule(f"features.{layer}.bias", (n_out,))
    return state


@pytest.fixture(scope="session")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random((40, 50, 3), dtype=np.float32)
    render = (truth + 0.1 * rng.standard_normal(truth.shape)).clip(0, 1).astype(np.float32)
    mask = np.zeros((40, 50), bool)
    mask[10:20, 5:30] = True
    return truth, render, mask


def test_psnr_against_skimage(pair):
    truth, render, mask = pair
    assert psnr(truth, render) == pytest.approx(peak_signal_noise_ratio(truth, render, data_range=1.0), abs=1e-6)
    inside = peak_signal_noise_ratio(truth[10:20, 5:30], render[10:20, 5:30], data_range=1.0)
    assert psnr(truth, render, mask) == pytest.approx(inside, abs=1e-6)
    assert psnr(truth, render, np.zeros_like(mask)) == 0.0
    assert psnr(truth, truth) == float("inf")


def test_ssim_against_skimage(pair):
    truth, render, mask = pair
    for data_range in (1.0, 2.0):
        expected = structural_similarity(truth, render, channel_axis=-1, data_range=data_range)
        assert ssim(truth, render, None, data_range) == pytest.approx(expected, abs=1e-9)
    assert ssim(truth, truth, mask) == pytest.approx(1.0, abs=1e-6)
    assert ssim(truth, render, np.zeros_like(mask)) == 0.0


def test_lpips_against_published_figures(golden, trunk):
    with np.load(golden / "nets/figures.npz") as data:
        first, second = (data[f"lpips/{name}"].transpose(1, 2, 0) for name in ("img0", "img1"))
        mask, published = data["lpips/mask"] > 0.5, {s: data[f"lpips/{s}"] for s in ("as_published", "scaled")}
    for scaled, name in ((False, "as_published"), (True, "scaled")):
        metric = Lpips(trunk, scaled, CPU)
        ours = [metric(first, second), metric(first, second, mask), metric(first, second, np.zeros_like(mask))]
        np.testing.assert_allclose(ours, published[name], rtol=1e-4, atol=1e-9)


def test_lpips_against_its_package(pair, trunk):
    truth, render, mask = pair
    metric = Lpips(trunk, True, CPU)
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1 for image in (truth, render)]
    with torch.no_grad():
        assert metric(truth, render) == pytest.approx(float(metric.model(*tensors)), rel=1e-5)
    assert metric(truth, render, np.ones_like(mask)) == pytest.approx(metric(truth, render), rel=1e-5)


def test_missing_trunk_is_said_and_survived(tmp_path, caplog, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.__class__, "get_state_dict", no_network)
    assert load_lpips(None, True, CPU) is None
    assert "LPIPS is left out" in caplog.text
    (tmp_path / "rubbish.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"rubbish\.pth holds no AlexNet"):
        load_lpips(str(tmp_path / "rubbish.pth"), True, CPU)


def test_mean_leaves_out_what_could_not_be_had():
    rows = [{"name": "a", "psnr": 20.0, "lpips": None}, {"name": "b", "psnr": 30.0, "lpips": None}]
    assert mean_of(rows) == {"psnr": 25.0, "lpips": None}


@pytest.fixture
def no_lpips(monkeypatch):
    """As on a machine without the weights and without a network."""
    monkeypatch.setattr("nsff.evaluator.load_lpips", lambda *_: None)


def test_all_views_of_the_published_evaluation(trained, golden, trunk, tmp_path):
    torch.save(trunk, tmp_path / "alexnet.pth")
    path = evaluate(dataclasses.replace(trained, lpips_trunk=str(tmp_path / "alexnet.pth")), CPU)
    ours = json.loads(path.read_text())
    published = json.loads((golden / "render/evaluation.json").read_text())
    assert len(ours["views"]) == len(published["per_view_psnr_ssim_lpips"]) == 264
    for view, figures in zip(ours["views"], published["per_view_psnr_ssim_lpips"], strict=True):
        assert view["psnr"] == pytest.approx(figures[0], abs=1e-3), view["name"]
        assert view["ssim"] == pytest.approx(figures[1], abs=1e-4), view["name"]
        assert view["lpips"] == pytest.approx(figures[2], abs=1e-4), view["name"]
    for key, theirs in published["means"].items():
        name = key.removeprefix("mean_").replace(" dy", "_dynamic")
        assert ours["mean"][name] == pytest.approx(theirs, abs=1e-3 if "psnr" in name else 1e-4), name
    assert ours["checkpoint"]["step"] == 2000


def test_view0_protocol(trained, golden, tmp_path, no_lpips):
    heldout = tmp_path / "view0"
    heldout.mkdir()
    for frame in (0, 2, 4):
        image = iio.imread(golden / f"scene/mv_images/{frame:05d}/cam01.jpg")
        iio.imwrite(heldout / f"{frame:05d}.png", image)
    config = dataclasses.replace(trained, protocol="view0", heldout=str(heldout), save_renders=True)
    report = json.loads(evaluate(config, CPU).read_text())
    assert [view["name"] for view in report["views"]] == ["00002", "00004"]
    assert report["mean"]["lpips"] is None
    assert report["mean"]["psnr"] == pytest.approx(np.mean([view["psnr"] for view in report["views"]]))
    saved = iio.imread(config.experiment_dir / "renders_view0/00002.png")
    truth = iio.imread(heldout / "00002.png").reshape(36, 2, 64, 2, 3).mean((1, 3)).round().astype(np.uint8)
    expected = peak_signal_noise_ratio(truth, saved, data_range=255)
    assert report["views"][0]["psnr"] == pytest.approx(expected, abs=0.01)


def test_view0_needs_frame_0_and_has_no_figure_for_an_empty_mask(trained, golden, tmp_path, no_lpips):
    heldout = tmp_path / "still"
    heldout.mkdir()
    for frame in (0, 2):
        shutil.copy(golden / "scene/images_64x36/00000.png", heldout / f"{frame:05d}.png")
    config = dataclasses.replace(trained, protocol="view0", heldout=str(heldout))
    view = json.loads(evaluate(config, CPU).read_text())["views"][0]
    assert view["psnr_dynamic"] is None
    assert view["psnr_static"] == pytest.approx(view["psnr"])
    with pytest.raises(UsageError, match="start_frame = 0"):
        evaluate(dataclasses.replace(config, start_frame=1), CPU)


def test_weights_from_a_file_need_no_experiment(trained, golden, tmp_path, no_lpips):
    """`ft_path` wins over the experiment, and cameras keep their names where the video starts later."""
    published = str(golden / "render/002000.tar")
    config = dataclasses.replace(
        trained, basedir=str(tmp_path), ft_path=published, start_frame=2, end_frame=14, final_height=36
    )
    report = json.loads(evaluate(config, CPU).read_text())
    assert report["checkpoint"]["path"] == published
    names = [view["name"] for view in report["views"]]
    assert len(names) == 12 * 11
    assert "00002/cam03" not in names  # frame 2 of the video was taken by camera 3
    assert "00002/cam01" in names


def test_missing_held_out_view_is_found_before_rendering(trained, golden, tmp_path):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    (scene / "mv_masks/00005/cam07.png").unlink()
    with pytest.raises(InputError, match=r"mv_masks/00005/cam07\.png is missing"):
        evaluate(dataclasses.replace(trained, datadir=str(scene)), CPU)


def test_infinite_psnr_is_null_in_the_file(tmp_path):
    _write_json(tmp_path / "m.json", {"mean": {"psnr": float("inf")}, "views": [{"psnr": 3.5}]})
    assert json.loads((tmp_path / "m.json").read_text()) == {"mean": {"psnr": None}, "views": [{"psnr": 3.5}]}


def test_protocols_without_their_files(trained, tmp_path):
    with pytest.raises(UsageError, match="--heldout DIR"):
        evaluate(dataclasses.replace(trained, protocol="view0"), CPU)
    with pytest.raises(InputError, match="is missing"):
        evaluate(dataclasses.replace(trained, protocol="view0", heldout=str(tmp_path / "nowhere")), CPU)
    with pytest.raises(InputError, match="has no frame 00001"):
        evaluate(dataclasses.replace(trained, protocol="view0", heldout=str(tmp_path)), CPU)


def test_evaluation_as_typed(typed, golden, tmp_path):
    shutil.copy(golden / "scene/images/00002.png", tmp_path / "00002.png")
    out = typed("evaluation", "--protocol", "view0", "--heldout", str(tmp_path), "--lpips_trunk", "x")
    assert out.returncode == 1
    assert "error: --lpips_trunk x holds no AlexNet weights" in out.stderr
