"""Protocols against DynamicNeRF's and DynIBaR's evaluations, the printed means, and the published scores."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import evaluation
import imageio.v3 as iio
import lpips
import numpy as np
import pytest
import torch
from nsff.data.cameras import load_cameras
from nsff.errors import InputError, UsageError
from nsff.evaluation.evaluator import evaluate, require_all_views
from nsff.evaluation.metrics import Lpips, compare, eight_bits
from nsff.evaluation.protocols import PROTOCOLS, find_heldout_views, heldout_frames
from nsff.evaluation.results_table import MEAN, PUBLISHED, SCENES, published_scores, score_table
from nsff.evaluation.scores import MeanScore, RegionScores, read_report
from nsff.evaluation.tables import mean_lines
from skimage.metrics import structural_similarity

CPU = torch.device("cpu")
DYNAMICNERF, DYNIBAR = PROTOCOLS["dynamicnerf"].rules, PROTOCOLS["dynibar"].rules
REGIONS = ("", "_dynamic", "_static")


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, render (both 8-bit) and moving part."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    render = (truth + rng.normal(0.0, 20.0, truth.shape)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((70, 90), bool)
    mask[20:50, 10:60] = True
    return truth, render, mask


@pytest.fixture(scope="module")
def alexnet(trunk) -> lpips.LPIPS:
    """LPIPS of its package with the weights of `trunk`."""
    model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    layers = {f"features.{name}": layer for name, layer in model.net.named_modules() if "." in name}
    for layer in ("0", "3", "6", "8", "10"):
        convolution = next(module for name, module in layers.items() if name.endswith(f".{layer}"))
        convolution.load_state_dict({key: trunk[f"features.{layer}.{key}"] for key in ("weight", "bias")})
    return model


def as_floats(*images: np.ndarray) -> list[np.ndarray]:
    """Images as the renderer returns them: float32, 0..1."""
    return [image.astype(np.float32) / 255.0 for image in images]


def test_dynamicnerf_protocol_matches_libraries(pictures, alexnet, trunk):
    """cv2.PSNR, scikit-image on 8-bit images, the LPIPS package on BGR images in -1..1."""
    truth, render, mask = pictures
    perceptual = Lpips(trunk, DYNAMICNERF.scaled_lpips, CPU, DYNAMICNERF.lpips_order)
    whole = compare(*as_floats(truth, render), mask, DYNAMICNERF, perceptual).whole
    assert whole.psnr == pytest.approx(cv2.PSNR(truth, render), abs=1e-9)
    assert whole.ssim == pytest.approx(structural_similarity(truth, render, channel_axis=-1), abs=1e-9)
    tensors = {}
    for order in ("BGR", "RGB"):
        turned = [image[..., ::-1] if order == "BGR" else image for image in (truth, render)]
        tensors[order] = [torch.tensor(image.transpose(2, 0, 1) / 127.5 - 1.0)[None].float() for image in turned]
    with torch.no_grad():
        expected = {order: float(alexnet(*pair)) for order, pair in tensors.items()}
    assert whole.lpips == pytest.approx(expected["BGR"], rel=1e-5)
    assert abs(expected["BGR"] / expected["RGB"] - 1.0) > 1e-3  # the order matters here


def test_dynamicnerf_scores_of_equal_images(pictures, trunk):
    truth, _, mask = pictures
    scores = compare(*as_floats(truth, truth), mask, DYNAMICNERF, Lpips(trunk, True, CPU, "BGR"))
    assert scores.whole.psnr == pytest.approx(cv2.PSNR(truth, truth), abs=1e-9)
    assert scores.whole.psnr == scores.moving.psnr == pytest.approx(361.2, abs=0.01)
    assert scores.whole.ssim == pytest.approx(1.0, abs=1e-12)
    assert scores.whole.lpips == 0.0


def test_dynamicnerf_truncates_where_view0_rounds():
    """0.4 grey levels below the truth: one level off if truncated, equal if rounded."""
    truth = np.full((12, 12, 3), 101, np.uint8)
    render = np.full((12, 12, 3), 100.6 / 255.0, np.float32)
    assert eight_bits(render, "truncate").max() == 100
    assert eight_bits(render).min() == 101
    assert eight_bits(np.array([[[-0.2, 1.7, 0.9999]]], np.float32), "truncate").ravel().tolist() == [0, 255, 254]
    empty = np.zeros((12, 12), bool)
    psnrs = {
        name: compare(*as_floats(truth), render, empty, PROTOCOLS[name].rules, None).whole.psnr
        for name in ("dynamicnerf", "view0")
    }
    assert psnrs["dynamicnerf"] == pytest.approx(20.0 * np.log10(255.0), abs=1e-9)  # 48.13 dB: one level
    assert psnrs["view0"] == float("inf")


@pytest.fixture
def first_camera(trained, golden, tmp_path):
    """The golden checkpoint on 12 frames, with 12 held-out images of the size of its renders."""
    folder = tmp_path / "heldout"
    folder.mkdir()
    for time in range(12):
        image = cv2.resize(iio.imread(golden / f"scene/mv_images/{time:05d}/cam01.jpg"), (64, 36))
        iio.imwrite(folder / f"v000_t{time:03d}.png", image)
    return dataclasses.replace(
        trained, end_frame=12, basedir=str(tmp_path / "logs"), ft_path=str(golden / "render/002000.tar"),
        protocol="dynamicnerf", heldout=str(folder), save_renders=True,
    )  # fmt: skip


def test_dynamicnerf_report_matches_script_on_saved_renders(first_camera, trunk_file, alexnet):
    """The authors' script on the saved files: read as BGR, 12 times, plain means."""
    config = dataclasses.replace(first_camera, lpips_trunk=str(trunk_file))
    report = read_report(evaluate(config, CPU))
    require_all_views(report, config)
    assert [view.name for view in report.views] == [f"{time:05d}" for time in range(12)]
    figures = []
    for time in range(12):
        truth = cv2.imread(str(Path(config.heldout) / f"v000_t{time:03d}.png"))
        render = cv2.imread(str(config.experiment_dir / f"renders_dynamicnerf/{time:05d}.png"))
        pair = [torch.tensor(image.transpose(2, 0, 1) / 127.5 - 1.0)[None].float() for image in (truth, render)]
        with torch.no_grad():
            distance = float(alexnet(*pair))
        figures.append([cv2.PSNR(truth, render), structural_similarity(truth, render, channel_axis=-1), distance])
    for name, expected in zip(("psnr", "ssim", "lpips"), np.mean(figures, axis=0), strict=True):
        assert getattr(report.mean.image.whole, name) == pytest.approx(expected, rel=1e-5), name


def test_dynamicnerf_includes_time_0_and_view0_does_not(first_camera):
    names = {}
    for protocol in ("dynamicnerf", "view0"):
        config = dataclasses.replace(first_camera, protocol=protocol)
        views = find_heldout_views(config, load_cameras(config)).complete
        assert {view.camera for view in views} == {0}
        names[protocol] = [view.frame for view in views]
    assert names == {"dynamicnerf": list(range(12)), "view0": list(range(1, 12))}


def test_dynamicnerf_reports_missing_times_and_warns_if_not_comparable(first_camera, caplog):
    folder = Path(first_camera.heldout)
    for time in range(1, 12, 2):
        (folder / f"v000_t{time:03d}.png").unlink()
    (folder / "v000_t004.png").rename(folder / "00004.png")
    views = find_heldout_views(first_camera, load_cameras(first_camera))
    assert [view.frame for view in views.complete] == [0, 2, 4, 6, 8, 10]
    assert [path.name for path in views.missing] == [f"{time:05d}.png" for time in range(1, 12, 2)]
    assert views.n_of_protocol == 12
    assert caplog.text == ""
    iio.imwrite(folder / "v000_t000.png", np.zeros((72, 128, 3), np.uint8))
    longer = dataclasses.replace(first_camera, end_frame=24)
    find_heldout_views(longer, load_cameras(longer))
    assert "published scores are for 12 frames, 24 are in use" in caplog.text
    assert "published scores are at 128x72, renders at 64x36" in caplog.text
    shorter = dataclasses.replace(first_camera, end_frame=11)
    with pytest.raises(InputError, match=r"needs 12 frames, .* has 11 in use"):
        find_heldout_views(shorter, load_cameras(shorter))
    later = dataclasses.replace(first_camera, start_frame=1, end_frame=13)
    with pytest.raises(UsageError, match="dynamicnerf needs start_frame = 0"):
        find_heldout_views(later, load_cameras(later))


def test_heldout_frames_reads_both_naming_schemes(tmp_path):
    for name in ("00003.png", "v000_t011.png", "v001_t002.png", "notes.jpg"):
        iio.imwrite(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert {time: path.name for time, path in heldout_frames(tmp_path).items()} == {
        3: "00003.png", 11: "v000_t011.png"
    }  # fmt: skip
    shutil.copy(tmp_path / "00003.png", tmp_path / "v000_t003.png")
    with pytest.raises(InputError, match=r"00003\.png and v000_t003\.png are both of time 3; remove one"):
        heldout_frames(tmp_path)


@torch.no_grad()
def masked_distance(model: lpips.LPIPS, truth: np.ndarray, render: np.ndarray, weight: np.ndarray) -> float:
    """LPIPS inside a mask from the network and heads of the package, without its scaling layer."""
    pair = [torch.tensor(image.transpose(2, 0, 1)[None]).float() * 2.0 - 1.0 for image in (truth, render)]
    first, second = ([feature / (feature.norm(dim=1, keepdim=True) + 1e-10) for feature in model.net(x)] for x in pair)
    total, mask = 0.0, torch.tensor(weight.transpose(2, 0, 1)[None, :1]).float()
    for a, b, head in zip(first, second, model.lins, strict=True):
        inside = torch.nn.functional.interpolate(mask, size=a.shape[2:])
        total += float((head((a - b) ** 2) * inside).sum() / (inside.sum() + 1e-8))
    return total


def dynibar_figures(truth: np.ndarray, render: np.ndarray, mask: np.ndarray, model: lpips.LPIPS) -> dict[str, float]:
    """DynIBaR's evaluation of one view, in plain numpy: float images, masks of three channels."""
    valid = np.repeat((render.sum(-1, keepdims=True) > 1e-3).astype(np.float64), 3, axis=-1)
    truth, render = truth * valid, render * valid
    moving = np.repeat(mask[..., None].astype(np.float64), 3, axis=-1)
    similarity = structural_similarity(truth, render, channel_axis=-1, data_range=2.0, full=True)[1]
    figures = {}
    for name, weight in zip(REGIONS, (valid, moving, 1.0 - moving), strict=True):
        total = weight.sum() + 1e-8
        error = (((truth - render) ** 2) * weight).sum() / total
        figures[f"psnr{name}"] = 10.0 * np.log10(1.0 / error) if error else 0.0
        figures[f"ssim{name}"] = (similarity * weight).sum() / total
        figures[f"lpips{name}"] = masked_distance(model, truth, render, weight)
    return figures


@pytest.mark.parametrize("black", ["some", "none", "the moving part"])
def test_dynibar_protocol_matches_its_steps(pictures, trunk, alexnet, black):
    truth, render, mask = (*as_floats(*pictures[:2]), pictures[2])
    render = render * 1.01 + 0.002  # beyond 1, and no grey level: not rounded, not clipped
    if black == "some":
        render[:40, :30] = 0.0
    elif black == "the moving part":
        render[mask] = 0.0
    perceptual = Lpips(trunk, DYNIBAR.scaled_lpips, CPU, DYNIBAR.lpips_order)
    row = compare(truth, render, mask, DYNIBAR, perceptual).to_json()
    expected = dynibar_figures(truth.astype(np.float64), render.astype(np.float64), mask, alexnet)
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    if black == "the moving part":
        assert row["psnr_dynamic"] == 0.0  # as published, for a mask without any error


def test_dynibar_ignores_truth_where_render_is_black(trunk):
    """A quarter is black, the rest is 0.1 off: 20 dB whole, 0 error over a quarter of the still part."""
    truth = np.full((64, 64, 3), 0.5, np.float32)
    render = np.full_like(truth, 0.6)
    render[:32, :32] = 0.0003  # three channels: 0.0009 in sum
    mask = np.zeros((64, 64), bool)
    perceptual = Lpips(trunk, False, CPU)
    scores = []
    for hidden in (0.0, 0.9):
        truth[:32, :32] = hidden
        scores.append(compare(truth, render, mask, DYNIBAR, perceptual))
    assert scores[0] == scores[1]
    assert scores[0].whole.psnr == pytest.approx(20.0, abs=1e-4)
    assert scores[0].static.psnr == pytest.approx(-10.0 * np.log10(0.75 * 0.01), abs=1e-4)
    assert scores[0].moving == RegionScores(0.0, 0.0, 0.0)
    assert compare(truth, render, mask, PROTOCOLS["nsff"].rules, None).whole.psnr < 10.0


def test_scores_by_other_rules_are_not_reused(trained, monkeypatch, tmp_path):
    monkeypatch.setattr("nsff.evaluation.evaluator.load_lpips", lambda *_: None)
    config = dataclasses.replace(trained, protocol="dynibar", every=150, save_renders=True)
    config = dataclasses.replace(config, ft_path=str(next(trained.experiment_dir.glob("*.tar"))), basedir=str(tmp_path))
    before = json.loads(evaluate(config, CPU).read_text())["mean"]
    other = dataclasses.replace(PROTOCOLS["dynibar"], rules=PROTOCOLS["nsff-fixed"].rules)
    monkeypatch.setitem(PROTOCOLS, "dynibar", other)
    after = json.loads(evaluate(config, CPU).read_text())["mean"]
    assert after["ssim"] < before["ssim"] - 0.01  # a range of 1 instead of 2
    assert (config.experiment_dir / "renders_dynibar-old1").is_dir()


PRINTED = ["mean_psnr", "mean_ssim", "mean_lpips", "mean_psnr dy", "mean_ssim dy", "mean_lpips dy"]


def printed(text: str) -> dict[str, str]:
    """Name and value of each line."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines())


def test_means_are_printed_under_their_published_names(trained, golden, tmp_path, capsys, monkeypatch):
    """Also with `--quiet`, and before the error about missing files."""
    monkeypatch.setattr("nsff.evaluation.evaluator.load_lpips", lambda *_: None)
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    (scene / "mv_images/00000/cam02.jpg").unlink()
    argv = ["--config", trained.config, "--datadir", str(scene), "--basedir", trained.basedir]
    with pytest.raises(InputError, match="1 files of held-out views are missing"):
        evaluation.main([*argv, "--protocol", "nsff-fixed", "--every", "80", "--quiet"])
    lines = printed(capsys.readouterr().out)
    mean = json.loads((trained.experiment_dir / "metrics_nsff-fixed.json").read_text())["mean"]
    assert list(lines) == PRINTED
    assert lines["mean_psnr"] == f"{mean['psnr']:.4f}"
    assert lines["mean_ssim dy"] == f"{mean['ssim_dynamic']:.4f}"
    assert lines["mean_lpips"] == lines["mean_lpips dy"] == "nan"


def test_means_as_typed_match_published_figures(typed, trunk_file, golden):
    """Nothing else goes to standard output; the views are every hundredth of the published evaluation."""
    out = typed("evaluation", "--every", "100", "--lpips_trunk", str(trunk_file), "--quiet")
    assert (out.returncode, out.stderr) == (0, "")
    published = json.loads((golden / "render/evaluation.json").read_text())["per_view_psnr_ssim_lpips"][::100]
    lines = printed(out.stdout)
    assert list(lines) == PRINTED
    for name, expected in zip(PRINTED[:3], np.mean(published, axis=0), strict=True):
        assert float(lines[name]) == pytest.approx(expected, abs=1e-3), name


def test_mean_lines_of_given_means():
    mean = {"psnr": 20.0, "ssim": 0.5, "lpips": None, "psnr_dynamic": 10.0, "ssim_dynamic": 0.25, "flicker": 1.0}
    assert mean_lines(MeanScore.from_json(mean)) == (
        "mean_psnr 20.0000\nmean_ssim 0.5000\nmean_lpips nan\n"
        "mean_psnr dy 10.0000\nmean_ssim dy 0.2500\nmean_lpips dy nan\n"
    )


def test_score_table_adds_published_scores_of_same_protocol():
    means = {"balloon1_view0": MeanScore.from_json({"psnr": 20.0, "lpips": 0.1})}
    for protocol in PROTOCOLS:
        rows = score_table(means, protocol)
        assert any("published" in row[0] for row in rows) == (protocol == "dynamicnerf")
    rows = score_table(means, "dynamicnerf")
    assert rows[1][:2] == ["balloon1_view0", "20.00"]
    assert ["NSFF, balloon1 (published [1])", "21.96", "-", "0.2150", "-", "-", "-"] in rows
    assert ["SplineGS (no poses), balloon1 (published [2])", "24.43", "-", "0.0680", "-", "-", "-"] in rows
    assert len(rows) == 2 + 13
    assert {row[0].split(",")[1] for row in rows[2:]} == {
        " balloon1 (published [1])", " balloon1 (published [2])"
    }  # fmt: skip
    assert score_table({"Balloon1-2_ndc_5f_sv_of_unify3": MeanScore.from_json({})}, "dynamicnerf")[2:] == rows[2:]
    assert len(score_table({"kid-running": MeanScore.from_json({})}, "dynamicnerf")) == 2


def test_published_means_require_all_scenes():
    names = [f"{scene}_F00-12" for scene in SCENES]
    assert MEAN not in {entry.scene for entry in published_scores(names[1:], "dynamicnerf")}
    every = published_scores(names, "dynamicnerf")
    best = max((entry for entry in every if entry.scene == MEAN), key=lambda entry: entry.psnr)
    assert (best.psnr, best.ssim, best.lpips) == (27.81, 0.871, 0.049)
    assert "arXiv:2603.25058" in best.source


def test_published_json_is_consistent():
    """Every entry has a source, and the means of both tables are those of their scenes."""
    content = json.loads(PUBLISHED.read_text())
    sources = content.pop("sources")
    assert {entry["source"] for entries in content.values() for entry in entries} == set(sources)
    for entry in (entry for entries in content.values() for entry in entries):
        assert {"method", "scene", "psnr", "source"} <= entry.keys() <= {
            "method", "scene", "psnr", "ssim", "lpips", "source"
        }  # fmt: skip
    tables = [entry for entry in content["dynamicnerf"] if entry["source"] in ("dynamicnerf-readme", "splinegs-table1")]
    methods = {entry["method"] for entry in tables}
    assert len(tables) == len(methods) * 8
    for method in methods:
        figures = {entry["scene"]: entry for entry in tables if entry["method"] == method}
        for name, tolerance in (("psnr", 0.011), ("lpips", 0.0011)):
            mean = np.mean([figures[scene][name] for scene in SCENES])
            assert figures[MEAN][name] == pytest.approx(mean, abs=tolerance), f"{method} {name}"
