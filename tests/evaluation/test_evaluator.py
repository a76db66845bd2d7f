"""Metrics against other libraries and the published figures; the golden checkpoint rendered and evaluated."""

import csv
import dataclasses
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torchvision
from nsff.config_loader import load_config
from nsff.data.cameras import load_cameras
from nsff.errors import InputError, UsageError
from nsff.evaluation.evaluator import Scorer, _strict, evaluate, flicker, mean_of, require_all_views
from nsff.evaluation.metrics import Lpips, Rules, compare, load_lpips, masked_ssim, psnr, ssim
from nsff.evaluation.protocols import PROTOCOLS, View, find_views
from nsff.evaluation.results_table import evaluate_all, score_table
from nsff.evaluation.tables import latex, markdown
from nsff.evaluation.validation import Validation
from nsff.fields import build_fields
from nsff.rendering.frame_render import FrameRender
from nsff.report.evaluation_page import error_map
from nsff.training.checkpoint import restore_fields
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

CPU = torch.device("cpu")


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


def test_masked_ssim_sees_nothing_outside_the_mask(pair):
    truth, render, mask = pair
    inside = mask.copy()
    elsewhere = np.where(mask[..., None], render, 0.3).astype(np.float32)
    assert masked_ssim(truth, elsewhere, inside) == pytest.approx(masked_ssim(truth, render, inside), abs=1e-12)
    assert masked_ssim(truth, truth, inside) == pytest.approx(1.0)
    assert masked_ssim(truth, render, np.zeros_like(mask)) == 0.0
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    whole = structural_similarity(truth, render, channel_axis=-1, data_range=1.0, full=True, **options)[1]
    assert masked_ssim(truth, render) == pytest.approx(float(whole.mean()), abs=0.02)  # borders differ


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


def test_missing_trunk_is_said_and_survived(tmp_path, caplog, capsys, monkeypatch):
    def no_network(*_, **__):
        print("Downloading ...")
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.__class__, "get_state_dict", no_network)
    assert load_lpips(None, Rules(), CPU) is None
    assert "LPIPS is left out" in caplog.text
    assert capsys.readouterr().out == ""  # where the means are printed
    (tmp_path / "rubbish.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"rubbish\.pth holds no AlexNet"):
        load_lpips(str(tmp_path / "rubbish.pth"), Rules(), CPU)


def test_mean_leaves_out_what_could_not_be_had():
    rows = [{"name": "a", "psnr": 20.0, "lpips": None}, {"name": "b", "psnr": 30.0, "lpips": None}]
    assert mean_of(rows) == {"psnr": 25.0, "lpips": None}


@pytest.fixture
def no_lpips(monkeypatch):
    """As on a machine without the weights and without a network."""
    monkeypatch.setattr("nsff.evaluation.evaluator.load_lpips", lambda *_: None)


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
        trained, basedir=str(tmp_path), ft_path=published, start_frame=2, end_frame=14, final_height=36, every=33
    )
    report = json.loads(evaluate(config, CPU).read_text())
    assert report["checkpoint"]["path"] == published
    assert len(report["views"]) == 4
    config = dataclasses.replace(config, every=1)
    names = [view.name for view in find_views(config, load_cameras(config)).there]
    assert len(names) == 12 * 11
    assert [view["name"] for view in report["views"]] == names[::33]
    assert "00002/cam03" not in names  # frame 2 of the video was taken by camera 3
    assert "00002/cam01" in names


def test_a_perfect_render(pair):
    """Infinite PSNR is null in the file; empty and full masks."""
    truth, _, mask = pair
    fixed, published = PROTOCOLS["nsff-fixed"].rules, PROTOCOLS["nsff"].rules
    row = compare(truth, truth, mask, fixed, None)
    assert row["psnr"] == row["psnr_dynamic"] == float("inf")
    assert row["ssim_static"] == pytest.approx(1.0)
    assert _strict({"mean": {"psnr": row["psnr"]}, "views": [row | {"psnr": 3.5}]})["mean"] == {"psnr": None}
    empty, full = np.zeros_like(mask), np.ones_like(mask)
    assert compare(truth, truth, empty, fixed, None)["psnr_dynamic"] is None
    assert compare(truth, truth, empty, published, None)["psnr_dynamic"] == 0.0
    assert compare(truth, truth, full, fixed, None)["ssim_static"] is None
    visible = np.zeros_like(mask)
    visible[:, :20] = True
    half = np.where(visible[..., None], truth, 0.0).astype(np.float32)
    assert compare(truth, half, mask, PROTOCOLS["dycheck"].rules, None, visible)["psnr"] == float("inf")


def test_fixed_protocol(trained, golden, trunk, tmp_path):
    """The same views by the mended rules, each against another library."""
    torch.save(trunk, tmp_path / "alexnet.pth")
    config = dataclasses.replace(
        trained, protocol="nsff-fixed", every=40, save_renders=True, lpips_trunk=str(tmp_path / "alexnet.pth")
    )
    report = json.loads(evaluate(config, CPU).read_text())
    assert len(report["views"]) == 7
    scaled = Lpips(trunk, True, CPU)
    for view in report["views"]:
        render = iio.imread(config.experiment_dir / f"renders_nsff-fixed/{view['name']}.png")
        truth = iio.imread(golden / f"scene/mv_images/{view['name']}.jpg")
        truth = truth.reshape(36, 2, 64, 2, 3).mean((1, 3)).round().astype(np.uint8)
        assert view["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, render, data_range=255), abs=0.01)
        expected = structural_similarity(truth / 255.0, render / 255.0, channel_axis=-1, data_range=1.0)
        assert view["ssim"] == pytest.approx(expected, abs=1e-3)
        assert view["lpips"] == pytest.approx(scaled((truth / 255).astype("f4"), (render / 255).astype("f4")), abs=1e-3)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # of this process, at the end
        assert 0.7 * most < view["peak_memory_gb"] <= most


def test_dynibar_leaves_out_both_ends(trained):
    views = find_views(dataclasses.replace(trained, protocol="dynibar"), load_cameras(trained)).there
    assert sorted({view.frame for view in views}) == list(range(3, 21))
    assert len(views) == 18 * 11
    assert (
        len(find_views(dataclasses.replace(trained, protocol="dynibar", every=10), load_cameras(trained)).there) == 20
    )


def test_dycheck_counts_what_the_video_has_seen(trained, golden, tmp_path, no_lpips):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    config = dataclasses.replace(trained, datadir=str(scene), protocol="dycheck", every=100)
    with pytest.raises(InputError, match=r"covisible is missing: .* run make_covisibility\.py"):
        evaluate(config, CPU)
    for image in (scene / "mv_images").glob("*/*.jpg"):
        mask = np.zeros((72, 128), np.uint8)
        mask[:, :64] = 255
        path = scene / "covisible" / image.parent.name / f"{image.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, mask)
    masked = json.loads(evaluate(config, CPU).read_text())
    assert masked["mean"]["pck_t"] is None  # no key points
    fixed = dataclasses.replace(config, protocol="nsff-fixed", save_renders=True)
    evaluate(fixed, CPU)
    for view in masked["views"]:
        render = iio.imread(fixed.experiment_dir / f"renders_nsff-fixed/{view['name']}.png")
        truth = iio.imread(scene / f"mv_images/{view['name']}.jpg")
        truth = truth.reshape(36, 2, 64, 2, 3).mean((1, 3)).round().astype(np.uint8)
        expected = peak_signal_noise_ratio(truth[:, :32], render[:, :32], data_range=255)
        assert view["psnr"] == pytest.approx(expected, abs=0.01)


def test_reports(trained, no_lpips):
    """Tables and a page that needs no other file, the worst view first."""
    config = dataclasses.replace(trained, protocol="nsff-fixed", every=60)
    path = evaluate(config, CPU)
    report = json.loads(path.read_text())
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [view["name"] for view in report["views"]]
    assert float(rows[1]["psnr"]) == pytest.approx(report["views"][1]["psnr"])
    assert (
        f"| whole | {report['mean']['psnr']:.2f} | {report['mean']['ssim']:.4f} | - |"
        in path.with_suffix(".md").read_text()
    )
    assert f"whole & {report['mean']['psnr']:.2f} &" in path.with_suffix(".tex").read_text()
    page = path.with_suffix(".html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * len(rows)
    assert "http" not in page
    worst_first = [view["name"] for view in sorted(report["views"], key=lambda view: view["psnr"])]
    places = [page.index(f"<h3>{name}</h3>") for name in worst_first]
    assert places == sorted(places)
    assert not (config.experiment_dir / "renders_nsff-fixed").exists()  # not asked for


def test_table_formats():
    rows = [["scene", "PSNR"], ["a_b", "20.00"]]
    assert markdown(rows) == "| scene | PSNR |\n| --- | ---: |\n| a_b | 20.00 |\n"
    assert latex(rows).splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"scene & PSNR \\", r"\midrule", r"a\_b & 20.00 \\", r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert error_map(black, black).max() == 0
    assert error_map(black, white).min() == 255


def test_an_evaluation_goes_on_where_it_stopped(trained, no_lpips, monkeypatch):
    config = dataclasses.replace(trained, protocol="nsff-fixed", every=50)
    scored, score = [], Scorer.score

    def stopping(self, view):
        if len(scored) == 3:
            scored.append("stop")
            raise RuntimeError
        scored.append(view.name)
        return score(self, view)

    monkeypatch.setattr(Scorer, "score", stopping)
    with pytest.raises(RuntimeError):
        evaluate(config, CPU)
    report = json.loads(evaluate(config, CPU).read_text())
    names = [view["name"] for view in report["views"]]
    assert [name for name in scored if name != "stop"] == names
    assert len(names) == 6


def test_rows_of_other_truths_are_not_taken(trained, golden, tmp_path, no_lpips):
    """A picture that changed, and a quick look at the same: nothing is mixed, nothing that was kept is lost."""
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    config = dataclasses.replace(trained, datadir=str(scene), protocol="dynibar", every=60, save_renders=True)
    before = json.loads(evaluate(config, CPU).read_text())
    name = before["views"][1]["name"]
    iio.imwrite(scene / f"mv_images/{name}.jpg", np.zeros((72, 128, 3), np.uint8))
    after = json.loads(evaluate(config, CPU).read_text())
    assert after["views"][0]["psnr"] == before["views"][0]["psnr"]
    assert after["views"][1]["psnr"] != before["views"][1]["psnr"]
    folder = config.experiment_dir / "renders_dynibar"
    assert folder.with_name("renders_dynibar-old1").is_dir()
    evaluate(dataclasses.replace(config, save_renders=False), CPU)
    assert len(list(folder.glob("*/cam??.png"))) == 4


def test_two_processes_share_an_evaluation(trained, typed):
    """As torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = ["--protocol", "nsff-fixed", "--every", "53"]
    given = ["--config", trained.config, "--datadir", trained.datadir, "--basedir", trained.basedir]
    command = [sys.executable, "evaluation.py", *given, *options]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"HTTPS_PROXY": "http://localhost:1", "https_proxy": "http://localhost:1"}
    folder = Path(__file__).resolve().parents[2] / "nsff_exp"
    (trained.experiment_dir / "metrics_nsff-fixed.json").unlink(missing_ok=True)
    runs = [
        subprocess.Popen(command, cwd=folder, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    printed = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [len(text.splitlines()) for text in printed] == [6, 0]  # the means, by the main process alone
    report = json.loads((trained.experiment_dir / "metrics_nsff-fixed.json").read_text())
    assert len(report["views"]) == 5


def test_flicker_of_hand_made_frames(tmp_path):
    """Truth gets brighter by 10 grey levels; a render that does so as well does not flicker, whatever its error."""
    shown = {0: 50, 1: 60, 2: 65, 3: 200}
    views = []
    for frame, value in shown.items():
        iio.imwrite(tmp_path / f"{frame}.png", np.full((4, 5, 3), value, np.uint8))
        truth = np.full((4, 5, 3), (100 + 10 * frame) / 255.0, np.float32)
        camera = 1 if frame == 3 else 0
        views.append(View(str(frame), frame, camera, lambda truth=truth: truth, lambda: np.zeros((4, 5), bool)))
    found = flicker(views, tmp_path)
    assert found == {"0": None, "1": pytest.approx(0.0, abs=1e-4), "2": pytest.approx(5.0, abs=1e-4), "3": None}


FRAME = FrameRender(torch.zeros(36, 64, 3), torch.zeros(36, 64), torch.zeros(36, 64), torch.zeros(36, 64, 3))


def test_missing_views_are_named_and_counted(trained, golden, tmp_path, no_lpips, monkeypatch):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    for name in ("mv_masks/00005/cam07.png", "mv_images/00008/cam02.jpg"):
        (scene / name).unlink()
    config = dataclasses.replace(trained, datadir=str(scene), every=100)
    evaluate(config, CPU)  # the missing ones would not be looked at
    config = dataclasses.replace(config, every=1, allow_missing=False)
    monkeypatch.setattr(
        Scorer, "score", lambda self, view: ({"name": view.name, "psnr": 1.0, "ssim": None, "lpips": None}, FRAME)
    )
    monkeypatch.setattr("nsff.evaluation.evaluator.write_page", lambda *_: None)
    report = json.loads(evaluate(config, CPU).read_text())
    with pytest.raises(InputError, match=r"2 files are missing, the first is .*mv_masks/00005/cam07\.png"):
        require_all_views(report, config)
    assert [path[-24:] for path in report["missing"]] == ["mv_masks/00005/cam07.png", "v_images/00008/cam02.jpg"]
    assert (len(report["views"]), report["views_of_protocol"]) == (262, 264)
    require_all_views(report, dataclasses.replace(config, allow_missing=True))


@pytest.mark.parametrize("name", ["mv_images/00000/cam02.jpg", "mv_masks/00000/cam02.png"])
def test_pictures_of_another_shape(trained, golden, tmp_path, no_lpips, name):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    iio.imwrite(scene / name, np.zeros((72, 72, 3), np.uint8))
    with pytest.raises(InputError, match=rf"{Path(name).name} is 72x72, the frames are 64x36: not the same picture"):
        evaluate(dataclasses.replace(trained, datadir=str(scene), every=100), CPU)


def test_one_experiment_is_not_evaluated_twice(trained):
    with pytest.raises(UsageError, match=r"several configs are of one experiment, .*golden_F00-24"):
        evaluate_all([trained, trained])


def test_many_scenes_in_one_table(trained, tmp_path, no_lpips, capsys):
    options = ["--datadir", trained.datadir, "--basedir", trained.basedir, "--protocol", "nsff-fixed", "--every", "90"]
    other = tmp_path / "other.txt"
    other.write_text(Path(trained.config).read_text().replace(trained.expname, "untrained"))
    with pytest.raises(InputError, match="1 of 2 scenes could not be evaluated in full: untrained"):
        evaluate_all([load_config(["--config", path, *options]) for path in (trained.config, str(other))])
    table = (Path(trained.basedir) / "results_nsff-fixed.md").read_text()
    mean = json.loads((trained.experiment_dir / "metrics_nsff-fixed.json").read_text())["mean"]
    assert f"| {trained.expname} | {mean['psnr']:.2f} |" in table
    out = capsys.readouterr().out
    assert table in out
    assert "mean_psnr" not in out  # those lines are evaluation.py's
    assert f"Not over all views of the protocol: {trained.expname} (3 of 264 views)." in table
    rows = score_table({"a": {"psnr": 20.0, "lpips": 0.1}, "b": {"psnr": 30.0, "lpips": None}}, "view0")
    assert rows[3][:4] == ["mean of 2", "25.00", "-", "0.1000"]


def test_validation_while_training(trained, tmp_path):
    validation = Validation.of(dataclasses.replace(trained, protocol="nsff-fixed"))
    assert [view.frame for view in validation.views] == [0, 8, 15, 23]
    fields = build_fields(trained)
    restore_fields(fields, trained)
    figures = validation.score(fields)
    assert 10.0 < figures["psnr"] < 15.0
    assert "lpips" not in figures
    assert Validation.of(dataclasses.replace(trained, protocol="view0")).score(fields) == {}


def test_protocols_without_their_files(trained, tmp_path):
    for protocol, times in (("view0", "00001 to 00023"), ("dynamicnerf", "00000 to 00011")):
        config = dataclasses.replace(trained, protocol=protocol)
        with pytest.raises(UsageError, match=f"{protocol} needs --heldout DIR"):
            evaluate(config, CPU)
        with pytest.raises(InputError, match="is missing"):
            evaluate(dataclasses.replace(config, heldout=str(tmp_path / "nowhere")), CPU)
        with pytest.raises(InputError, match=f"has no frame {times} named by its time"):
            evaluate(dataclasses.replace(config, heldout=str(tmp_path)), CPU)


def test_evaluation_as_typed(typed, golden, tmp_path):
    shutil.copy(golden / "scene/images/00002.png", tmp_path / "00002.png")
    out = typed("evaluation", "--protocol", "view0", "--heldout", str(tmp_path), "--lpips_trunk", "x")
    assert out.returncode == 1
    assert "error: --lpips_trunk x holds no AlexNet weights" in out.stderr
