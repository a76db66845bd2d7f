"""Metrics against other libraries and the published figures; the golden checkpoint rendered and evaluated."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torchvision
from nsff.checkpoint import restore_fields
from nsff.clips import write_clip
from nsff.config import InputError, UsageError
from nsff.evaluator import _write_json, evaluate, mean_of
from nsff.fields import build_fields
from nsff.in_between import render_between
from nsff.metrics import Lpips, load_lpips, psnr, ssim
from nsff.novel_views import _window, render_bullet_time, render_slow_motion
from nsff.renderer import render_frame
from nsff.sampling import DepthSampling
from nsff.scene import load_cameras
from nsff.timeline import Timeline
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def variant() -> str:
    """Nothing here depends on it."""
    return "paper"


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


@pytest.fixture(scope="module")
def trained(golden, tmp_path_factory, golden_config):
    """The golden checkpoint in an experiment folder."""
    basedir = tmp_path_factory.mktemp("logs")
    config = dataclasses.replace(golden_config, basedir=str(basedir), image_ext="png")
    config.experiment_dir.mkdir()
    shutil.copy(golden / "render/002000.tar", config.experiment_dir)
    return config


def test_bullet_time_frames(trained, golden):
    folder = render_bullet_time(trained, CPU)
    assert folder.name == "render-spiral-frame-010_path_002000"
    with np.load(golden / "render/frames.npz") as published:
        for index in range(6):
            ours = iio.imread(folder / f"images/{index:03d}.png").astype(int)
            assert np.abs(ours - published[f"render_bt/{index:03d}"]).max() <= 1
    video = iio.imread(folder / "video.mp4", plugin="FFMPEG")
    assert video.shape == (60, 36, 64, 3)
    assert not list(folder.rglob("*partial*"))


@pytest.mark.parametrize(
    ("moving", "name", "n_frames"),
    [(False, "lockcam-slowmo-frame-010", 161), (True, "slowmo-bt-frame-010", 201)],
)
def test_slow_motion_frames(trained, golden, moving, name, n_frames, monkeypatch):
    """The 14 frames that were recorded of each mode."""
    rendered = []

    def first_frames(folder, total, render, *_):
        assert folder.name == f"render-{name}_path_002000"
        assert total == n_frames
        rendered.extend(render(index) for index in range(14))

    monkeypatch.setattr("nsff.novel_views.write_clip", first_frames)
    render_slow_motion(trained, CPU, moving)
    key = "render_slowmo_bt" if moving else "render_lockcam_slowmo"
    with np.load(golden / "render/frames.npz") as published:
        for index, frame in enumerate(rendered):
            assert np.abs(frame.astype(int) - published[f"{key}/{index:03d}"]).max() <= 1, index


def test_a_frame_itself_is_no_special_case(trained):
    """At the time of a frame nothing is splatted: the planes give what the rays give."""
    cameras, fields = load_cameras(trained), build_fields(trained)
    restore_fields(fields, trained)
    timeline, c2w = Timeline(24), torch.from_numpy(cameras.c2w[3].astype(np.float32))
    even = DepthSampling(trained.N_samples, 0, 0.0)
    expected = render_frame(fields, c2w, cameras.intrinsics, timeline.time_of(5), even, 10_000).rgb
    for points in (100, 10_000, 10_000_000):  # a plane at a time, some, all
        found = render_between(fields, c2w, cameras.intrinsics, timeline, 5, trained.N_samples, points)
        torch.testing.assert_close(found, expected, atol=3e-4, rtol=0.0)  # what is behind 99.99 % is left out
    almost = render_between(fields, c2w, cameras.intrinsics, timeline, 5 + 1e-5, trained.N_samples, 10_000)
    torch.testing.assert_close(almost, expected, atol=2e-3, rtol=0.0)


def test_windows_keep_to_the_sequence(caplog):
    caplog.set_level("INFO")
    assert _window(Timeline(24), 10, 8) == [k / 10 for k in range(20, 181)]
    assert not caplog.text
    assert _window(Timeline(24), 20, 8) == [k / 10 for k in range(120, 231)]
    assert "times 12 to 23 instead of 12 to 28" in caplog.text


def test_render_factor_and_odd_sizes(trained, tmp_path):
    folder = render_bullet_time(dataclasses.replace(trained, render_factor=4, image_ext="jpg"), CPU)
    assert iio.imread(folder / "images/000.jpg").shape == (9, 16, 3)
    write_clip(tmp_path, 3, lambda _: np.full((9, 15, 3), 200, np.uint8), {}, "png", 24.0)
    clip = iio.imread(tmp_path / "video.mp4", plugin="FFMPEG")
    assert clip.shape == (3, 8, 14, 3)
    assert abs(int(clip.mean()) - 200) <= 2


def test_a_clip_goes_on_where_it_stopped(tmp_path):
    rendered = []

    def render(index: int) -> np.ndarray:
        if index == 3 and rendered == [0, 1, 2]:
            raise RuntimeError
        rendered.append(index)
        return np.full((8, 8, 3), 10 * index, np.uint8)

    with pytest.raises(RuntimeError):
        write_clip(tmp_path, 5, render, {"a": 1.5}, "png", 24.0)
    assert len(list((tmp_path / "images").iterdir())) == 3
    rendered.append(-1)
    write_clip(tmp_path, 5, render, {"a": 1.5}, "png", 24.0)
    assert rendered == [0, 1, 2, -1, 3, 4]
    assert iio.imread(tmp_path / "video.mp4", plugin="FFMPEG").shape == (5, 8, 8, 3)
    rendered.clear()
    with pytest.raises(RuntimeError):
        write_clip(tmp_path, 4, render, {"a": 2.0}, "png", 24.0)  # other settings: all anew
    assert not (tmp_path / "video.mp4").exists()  # of the old frames
    rendered.append(-1)
    write_clip(tmp_path, 4, render, {"a": 2.0}, "png", 24.0)
    assert rendered == [0, 1, 2, -1, 3]
    assert len(list((tmp_path / "images").iterdir())) == 4
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write to"):
        write_clip(tmp_path / "file", 4, render, {}, "png", 24.0)


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


def typed(script: str, config, golden, *more: str) -> subprocess.CompletedProcess:
    """A script as a user types it, inside its folder."""
    command = [sys.executable, f"{script}.py", "--config", config.config, "--datadir", str(golden / "scene")]
    folder = Path(__file__).resolve().parents[2] / "nsff_exp"
    return subprocess.run(
        [*command, "--basedir", config.basedir, *more], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", ["render", "run_nerf"])
def test_render_as_typed(trained, golden, script):
    video = trained.experiment_dir / "render-spiral-frame-010_path_002000/video.mp4"
    video.unlink(missing_ok=True)
    out = typed(script, trained, golden, "--render_bt", "--render_factor", "9")
    assert out.returncode == 0, out.stderr
    assert iio.imread(video, plugin="FFMPEG").shape == (60, 4, 6, 3)


def test_render_without_a_mode(trained, golden):
    out = typed("render", trained, golden)
    assert out.returncode == 2
    assert (
        out.stderr.splitlines()[-1]
        == "error: nothing to render: give --render_bt, --render_lockcam_slowmo or --render_slowmo_bt"
    )


def test_evaluation_as_typed(trained, golden, tmp_path):
    shutil.copy(golden / "scene/images/00002.png", tmp_path / "00002.png")
    out = typed("evaluation", trained, golden, "--protocol", "view0", "--heldout", str(tmp_path), "--lpips_trunk", "x")
    assert out.returncode == 1
    assert "error: --lpips_trunk x holds no AlexNet weights" in out.stderr
