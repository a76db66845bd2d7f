"""The golden checkpoint rendered and evaluated: scores, reports, resuming, missing files."""

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
from nsff.config_loader import load_config
from nsff.data.cameras import load_cameras
from nsff.errors import InputError, UsageError
from nsff.evaluation.evaluator import Scorer, _settings, evaluate, flicker, require_all_views
from nsff.evaluation.metrics import Lpips, mean_lpips
from nsff.evaluation.protocols import HeldOutView, find_heldout_views
from nsff.evaluation.results_table import _scene_names, evaluate_all, score_table
from nsff.evaluation.scores import MeanScore, ViewScore, read_report
from nsff.evaluation.tables import latex, markdown
from nsff.evaluation.validation import Validation
from nsff.fields import build_fields
from nsff.rendering.frame_render import FrameRender
from nsff.report.evaluation_page import error_map, write_page
from nsff.training.checkpoint import read_checkpoint
from nsff.training.checkpoint_choice import restore_fields
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

CPU = torch.device("cpu")


@pytest.fixture
def no_lpips(monkeypatch):
    """A machine without the weights of LPIPS and without a network."""
    monkeypatch.setattr("nsff.evaluation.evaluator.load_lpips", lambda *_: None)


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.nightly)])
def test_nsff_protocol_matches_published_figures(trained, golden, trunk_file, every):
    path = evaluate(dataclasses.replace(trained, lpips_trunk=str(trunk_file), every=every), CPU)
    ours = json.loads(path.read_text())
    published = json.loads((golden / "render/evaluation.json").read_text())
    assert ours["views_of_protocol"] == len(published["per_view_psnr_ssim_lpips"]) == 264
    for view, figures in zip(ours["views"], published["per_view_psnr_ssim_lpips"][::every], strict=True):
        assert view["psnr"] == pytest.approx(figures[0], abs=1e-3), view["name"]
        assert view["ssim"] == pytest.approx(figures[1], abs=1e-4), view["name"]
        assert view["lpips"] == pytest.approx(figures[2], abs=1e-4), view["name"]
    assert ours["checkpoint"]["step"] == 2000
    for key, theirs in published["means"].items() if every == 1 else ():
        name = key.removeprefix("mean_").replace(" dy", "_dynamic")
        assert ours["mean"][name] == pytest.approx(theirs, abs=1e-3 if "psnr" in name else 1e-4), name


def test_view0_protocol_scores_saved_renders(trained, golden, tmp_path, no_lpips):
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


def test_view0_leaves_empty_mask_undefined_and_requires_frame_0(trained, golden, tmp_path, no_lpips):
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


def test_ft_path_overrides_experiment_and_keeps_camera_names(trained, golden, tmp_path, no_lpips):
    """Cameras keep the names of the rig where the video starts later."""
    published = str(golden / "render/002000.tar")
    config = dataclasses.replace(
        trained, basedir=str(tmp_path), ft_path=published, start_frame=2, end_frame=14, final_height=36, every=33
    )
    report = json.loads(evaluate(config, CPU).read_text())
    assert report["checkpoint"]["path"] == published
    assert len(report["views"]) == 4
    config = dataclasses.replace(config, every=1)
    names = [view.name for view in find_heldout_views(config, load_cameras(config)).complete]
    assert len(names) == 12 * 11
    assert [view["name"] for view in report["views"]] == names[::33]
    assert "00002/cam03" not in names  # frame 2 of the video was taken by camera 3
    assert "00002/cam01" in names


def test_nsff_fixed_protocol_matches_libraries(trained, golden, trunk, trunk_file):
    config = dataclasses.replace(
        trained, protocol="nsff-fixed", every=40, save_renders=True, lpips_trunk=str(trunk_file)
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
        assert view["lpips"] == pytest.approx(mean_lpips(scaled(truth / 255, render / 255)), abs=1e-3)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # of this process, at the end
        assert 0.7 * most < view["peak_memory_gb"] <= most


def test_dynibar_excludes_both_ends(trained):
    config, cameras = dataclasses.replace(trained, protocol="dynibar"), load_cameras(trained)
    views = find_heldout_views(config, cameras).complete
    assert sorted({view.frame for view in views}) == list(range(3, 21))
    assert len(views) == 18 * 11
    assert len(find_heldout_views(dataclasses.replace(config, every=10), cameras).complete) == 20


def test_dycheck_scores_covisible_pixels_only(trained, golden, tmp_path, no_lpips):
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


def test_evaluate_writes_tables_and_page(trained, no_lpips):
    """Tables, and a page that needs no other file, the worst view first."""
    config = dataclasses.replace(trained, protocol="nsff-fixed", every=60)
    path = evaluate(config, CPU, write_page=write_page)
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
    assert not (config.experiment_dir / "renders_nsff-fixed").exists()  # without --save_renders


def test_markdown_and_latex_tables():
    rows = [["scene", "PSNR"], ["a_b", "20.00"]]
    assert markdown(rows) == "| scene | PSNR |\n| --- | ---: |\n| a_b | 20.00 |\n"
    assert latex(rows).splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"scene & PSNR \\", r"\midrule", r"a\_b & 20.00 \\", r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip


def test_error_map_is_black_without_error_and_white_for_large_ones():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert error_map(black, black).max() == 0
    assert error_map(black, white).min() == 255


def test_interrupted_evaluation_resumes(trained, no_lpips, monkeypatch):
    config = dataclasses.replace(trained, protocol="nsff-fixed", every=50)
    scored, score = [], Scorer.score

    def interrupted_once(self, view):
        if len(scored) == 3:
            scored.append("interrupted")
            raise RuntimeError
        scored.append(view.name)
        return score(self, view)

    monkeypatch.setattr(Scorer, "score", interrupted_once)
    with pytest.raises(RuntimeError):
        evaluate(config, CPU)
    report = json.loads(evaluate(config, CPU).read_text())
    names = [view["name"] for view in report["views"]]
    assert [name for name in scored if name != "interrupted"] == names
    assert len(names) == 6


def test_scores_of_changed_truth_are_not_reused(trained, golden, tmp_path, no_lpips):
    """A changed image starts a new folder of renders; a later run without --save_renders deletes none of them."""
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


def test_scores_of_another_focal_length_are_not_reused(trained):
    cameras, checkpoint = load_cameras(trained), read_checkpoint(trained.experiment_dir / "002000.tar")
    longer = dataclasses.replace(cameras.intrinsics, focal=2.0 * cameras.intrinsics.focal)
    others = dataclasses.replace(cameras, intrinsics=longer)
    assert _settings(trained, cameras, checkpoint, False) == _settings(
        trained, load_cameras(trained), checkpoint, False
    )
    assert _settings(trained, cameras, checkpoint, False) != _settings(trained, others, checkpoint, False)


def test_two_processes_share_views_and_main_prints(trained):
    """Two processes as torchrun starts them."""
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
    assert [len(text.splitlines()) for text in printed] == [6, 0]  # six means, from the main process only
    report = json.loads((trained.experiment_dir / "metrics_nsff-fixed.json").read_text())
    assert len(report["views"]) == 5


def test_flicker_ignores_constant_error(tmp_path):
    """The truth brightens by 10 grey levels per frame; a render that does so too does not flicker."""
    levels = {0: 50, 1: 60, 2: 65, 3: 200}
    views = []
    for frame, value in levels.items():
        iio.imwrite(tmp_path / f"{frame}.png", np.full((4, 5, 3), value, np.uint8))
        truth = np.full((4, 5, 3), (100 + 10 * frame) / 255.0, np.float32)
        camera = 1 if frame == 3 else 0
        views.append(HeldOutView(str(frame), frame, camera, lambda truth=truth: truth, lambda: np.zeros((4, 5), bool)))
    assert flicker(views, tmp_path) == {
        "0": None,
        "1": pytest.approx(0.0, abs=1e-4),
        "2": pytest.approx(5.0, abs=1e-4),
        "3": None,
    }


FRAME = FrameRender(torch.zeros(36, 64, 3), torch.zeros(36, 64), torch.zeros(36, 64), torch.zeros(36, 64, 3))


def test_missing_view_files_are_reported(trained, golden, tmp_path, no_lpips, monkeypatch):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    for name in ("mv_masks/00005/cam07.png", "mv_images/00008/cam02.jpg"):
        (scene / name).unlink()
    config = dataclasses.replace(trained, datadir=str(scene), every=100)
    evaluate(config, CPU)  # every hundredth view: none of them lacks a file
    config = dataclasses.replace(config, every=1, allow_missing=False)
    monkeypatch.setattr(
        Scorer, "score", lambda self, view: (ViewScore.from_json({"name": view.name, "psnr": 1.0}), FRAME)
    )
    report = read_report(evaluate(config, CPU))
    message = r"2 files of held-out views are missing, the first is .*mv_masks/00005/cam07\.png"
    with pytest.raises(InputError, match=message):
        require_all_views(report, config)
    assert [path[-24:] for path in report.missing] == ["mv_masks/00005/cam07.png", "v_images/00008/cam02.jpg"]
    assert (len(report.views), report.views_of_protocol) == (262, 264)
    require_all_views(report, dataclasses.replace(config, allow_missing=True))


@pytest.mark.parametrize("name", ["mv_images/00000/cam02.jpg", "mv_masks/00000/cam02.png"])
def test_images_of_other_aspect_ratio_are_refused(trained, golden, tmp_path, no_lpips, name):
    scene = tmp_path / "dense"
    shutil.copytree(golden / "scene", scene)
    iio.imwrite(scene / name, np.zeros((72, 72, 3), np.uint8))
    with pytest.raises(InputError, match=rf"{Path(name).name} is 72x72, a frame is 64x36: their aspect ratios differ"):
        evaluate(dataclasses.replace(trained, datadir=str(scene), every=100), CPU)


def test_evaluate_all_refuses_repeated_experiment(trained):
    with pytest.raises(UsageError, match=r"several configs are of the same experiment, .*golden_F00-24"):
        evaluate_all([trained, trained], CPU)
    with pytest.raises(UsageError, match="the configs name the protocols nsff, view0: give one for all by --protocol"):
        evaluate_all([trained, dataclasses.replace(trained, expname="b", protocol="view0")], CPU)


def test_rows_of_experiments_of_one_name_are_told_apart(trained):
    shorter, elsewhere = dataclasses.replace(trained, end_frame=12), dataclasses.replace(trained, basedir="/b")
    other = dataclasses.replace(trained, expname="other")
    assert _scene_names([trained, shorter, other]) == ["golden_F00-24", "golden_F00-12", "other"]
    assert _scene_names([trained, elsewhere])[1] == "/b/golden_F00-24"


def test_evaluate_all_writes_table_and_names_failures(trained, tmp_path, no_lpips, capsys):
    options = ["--datadir", trained.datadir, "--basedir", trained.basedir, "--protocol", "nsff-fixed", "--every", "90"]
    other = tmp_path / "other.txt"
    other.write_text(Path(trained.config).read_text().replace(trained.expname, "untrained"))
    with pytest.raises(InputError, match="1 of 2 scenes could not be evaluated in full: untrained"):
        evaluate_all([load_config(["--config", path, *options]) for path in (trained.config, str(other))], CPU)
    table = (Path(trained.basedir) / "results_nsff-fixed.md").read_text()
    mean = json.loads((trained.experiment_dir / "metrics_nsff-fixed.json").read_text())["mean"]
    assert f"| {trained.expname} | {mean['psnr']:.2f} |" in table
    out = capsys.readouterr().out
    assert table in out
    assert "mean_psnr" not in out  # those lines are evaluation.py's
    assert f"Not over all views of the protocol: {trained.expname} (3 of 264 views)." in table


def test_score_table_averages_scenes():
    means = {"a": {"psnr": 20.0, "lpips": 0.1}, "b": {"psnr": 30.0, "lpips": None}}
    rows = score_table({scene: MeanScore.from_json(mean) for scene, mean in means.items()}, "view0")
    assert rows[3][:4] == ["mean of 2", "25.00", "-", "0.1000"]


def test_validation_scores_four_views(trained, tmp_path):
    validation = Validation.of(dataclasses.replace(trained, protocol="nsff-fixed"))
    assert [view.frame for view in validation.views] == [0, 8, 15, 23]
    fields = build_fields(trained)
    restore_fields(fields, trained)
    figures = validation.score(fields)
    assert 10.0 < figures["psnr"] < 15.0
    assert "lpips" not in figures
    assert Validation.of(dataclasses.replace(trained, protocol="view0")).score(fields) == {}


def test_protocols_without_heldout_files_are_refused(trained, tmp_path):
    for protocol, times in (("view0", "1 to 23"), ("dynamicnerf", "0 to 11")):
        config = dataclasses.replace(trained, protocol=protocol)
        with pytest.raises(UsageError, match=f"{protocol} needs --heldout DIR"):
            evaluate(config, CPU)
        with pytest.raises(InputError, match="is missing"):
            evaluate(dataclasses.replace(config, heldout=str(tmp_path / "nowhere")), CPU)
        folder = tmp_path / protocol
        folder.mkdir()
        config = dataclasses.replace(config, heldout=str(folder))
        with pytest.raises(
            InputError, match=r"holds no image \(png, jpg.*\); --heldout needs a folder of images named by"
        ):
            evaluate(config, CPU)
        iio.imwrite(folder / "cover.png", np.zeros((36, 64, 3), np.uint8))
        with pytest.raises(InputError, match=f"has no image of times {times}; name them by their time"):
            evaluate(config, CPU)


def test_lpips_trunk_without_weights_fails_as_typed(typed, golden, tmp_path):
    shutil.copy(golden / "scene/images/00002.png", tmp_path / "00002.png")
    out = typed("evaluation", "--protocol", "view0", "--heldout", str(tmp_path), "--lpips_trunk", "x")
    assert out.returncode == 1
    assert "error: --lpips_trunk x holds no AlexNet weights" in out.stderr
