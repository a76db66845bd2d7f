"""The viewer of the golden checkpoint: parts, page, figures and errors; in a browser, nightly."""

import dataclasses
import json
import logging
import re
import time

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from disk import file_size_limit
from firefox import FIREFOX, XVFB, Firefox
from nsff.data.cameras import load_cameras
from nsff.errors import InputError, UsageError
from nsff.fields import build_fields
from nsff.geometry.camera_path_file import read_camera_path
from nsff.geometry.rays import Camera
from nsff.geometry.space import NdcSpace
from nsff.novel_views.render_plan import plan_videos
from nsff.novel_views.render_videos import ViewRenderer
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.report.experiment_page import _add_viewer
from nsff.report.html import Page
from nsff.training.checkpoint_choice import restore_fields
from nsff.viewer.export import Viewer, export_viewer, refresh_viewer
from nsff.viewer.page import step_of_page

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(trained, tmp_path_factory):
    """The golden experiment with few layers and three times, in a folder of its own."""
    basedir = tmp_path_factory.mktemp("viewer")
    (basedir / trained.experiment_dir.name).symlink_to(trained.experiment_dir)
    config = dataclasses.replace(trained, basedir=str(basedir), planes=12, times="9:11", target_idx=10)
    config.experiment_dir.unlink()
    config.experiment_dir.mkdir()
    for path in trained.experiment_dir.glob("*.tar"):
        (config.experiment_dir / path.name).symlink_to(path)
    return config


@pytest.fixture(scope="module")
def page(config):
    return export_viewer(config, CPU)


def facts_of(page) -> dict:
    return json.loads(re.search(r"const SCENE = (\{.*?\}), PARTS", page.read_text(encoding="utf-8"))[1])


def test_page_holds_all_parts_and_nothing_from_elsewhere(page, config):
    text = page.read_text(encoding="utf-8")
    assert all(f'PARTS["{name}"]' in text for name in ("static", "time0", "time1", "time2"))
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "https://" not in text
    facts = facts_of(page)
    assert facts["timestamps"] == [9.0, 10.0, 11.0]
    assert facts["start"] == 1
    assert len(facts["depths"]) == 12
    centres = load_cameras(config).c2w[:, :, 3]
    assert facts["reach"] == pytest.approx(0.3 * np.linalg.norm(centres[:, None] - centres, axis=-1).max(), rel=1e-5)


def test_second_run_keeps_the_parts(page, config, caplog):
    part = config.experiment_dir / "viewer" / "time0.npz"
    written = part.stat().st_mtime_ns
    (config.experiment_dir / "viewer" / "time2.npz").unlink()
    with caplog.at_level(logging.INFO, "nsff"):
        assert export_viewer(config, CPU) == page
    assert part.stat().st_mtime_ns == written
    assert (config.experiment_dir / "viewer" / "time2.npz").is_file()
    figures = re.findall(r"(reference camera|bullet time, view \d of 4) +(\d+\.\d) dB", caplog.text)
    assert len(figures) == 5
    assert float(figures[0][1]) > 30.0
    assert "12 planes, 3 times" in caplog.text


def test_times_between_frames(config, page):
    viewer = Viewer.of(
        dataclasses.replace(config, slowmo_factor=4, times="9:10"), load_cameras(config), build_fields(config), 0
    )
    assert viewer.timestamps == [9.0, 9.25, 9.5, 9.75, 10.0]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"max_mb": 0.001}, InputError, "more than --max_mb 0.001: choose fewer --planes"),
        ({"times": "3:99"}, InputError, "choose two frames of the sequence"),
        ({"times": "now"}, UsageError, "--times now"),
        ({"expname": "nobody"}, InputError, "no checkpoint"),
    ],
)
def test_bad_options_are_refused(config, page, change, error, text):
    before = page.read_bytes()
    with pytest.raises(error, match=text):
        export_viewer(dataclasses.replace(config, **change), CPU)
    assert page.read_bytes() == before


def test_large_page_keeps_its_pictures_beside_it(config, page, monkeypatch):
    monkeypatch.setattr("nsff.viewer.page.INLINE_MB", 1e-6)
    inline = page.read_text(encoding="utf-8")
    text = export_viewer(config, CPU).read_text(encoding="utf-8")
    assert '<script src="viewer/static.js"></script>' in text
    script = (config.experiment_dir / "viewer" / "time1.js").read_text(encoding="utf-8")
    assert script in inline
    page.write_text(inline, encoding="utf-8")


def test_full_disk_leaves_the_page_and_finished_parts(config, page):
    before, part = page.read_bytes(), config.experiment_dir / "viewer" / "time1.npz"
    kept = (config.experiment_dir / "viewer" / "time0.npz").read_bytes()
    part.unlink()
    with file_size_limit(1000), pytest.raises(InputError, match="finished files stay, the same command resumes"):
        export_viewer(config, CPU)
    assert page.read_bytes() == before
    assert (config.experiment_dir / "viewer" / "time0.npz").read_bytes() == kept
    assert not part.exists()
    assert export_viewer(config, CPU) == page
    assert part.is_file()


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return -10.0 * float(np.log10(((first - second) ** 2).mean()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.fail("no chromium: apt install chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.nightly
@pytest.mark.parametrize(("x", "least"), [(0.0, 30.0), (1.0, 25.0), (-1.0, 25.0)])
def test_browser_shows_what_the_renderer_does(browser, page, config, x, least):
    facts = facts_of(page)
    browser.open(page, f"bare=1&moment=1&x={x}")
    shot = browser.screenshot(facts["width"], facts["height"]) / 255.0
    pose = torch.tensor(browser.evaluate("currentPose()"), dtype=torch.float32)
    cameras, fields = load_cameras(config), build_fields(config)
    restore_fields(fields, config)
    camera = Camera(pose, cameras.intrinsics, NdcSpace(cameras.intrinsics))
    truth = render_frame(fields, camera, cameras.timeline.time_of(10.0), DepthSampling.of(config), 4096).rgb.numpy()
    assert psnr(shot, truth) > least
    assert browser.errors == []


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    if FIREFOX is None or XVFB is None:
        pytest.skip("no firefox or no Xvfb: apt install firefox-esr xvfb libgl1-mesa-dri")
    firefox = Firefox(tmp_path_factory.mktemp("firefox"))
    yield firefox
    firefox.close()


@pytest.mark.nightly
@pytest.mark.parametrize("view", ["moment=1", "moment=1&x=1", "moment=2&x=-1&y=0.4&z=-0.3", "depth=1", "static=0"])
def test_firefox_shows_what_chromium_does(firefox, browser, page, view):
    """The same page, drawn by two browsers and two implementations of OpenGL."""
    size = facts_of(page)["width"], facts_of(page)["height"]
    shots = []
    for program in (firefox, browser):
        program.open(page, f"bare=1&{view}")
        shots.append(program.screenshot(*size).astype(int))
    difference = np.abs(shots[0] - shots[1])
    assert shots[1].max() > 60  # a picture
    assert difference.mean() < 1.0
    assert difference.max() <= 8


@pytest.mark.nightly
def test_firefox_moves_the_camera_and_plays(firefox, page):
    firefox.open(page)
    left, top, width, height = (
        firefox.evaluate(f"document.getElementById('view').getBoundingClientRect().{side}")
        for side in ("left", "top", "width", "height")
    )
    x, y, step = round(left + width / 2), round(top + height / 2), round(width / 5)

    def picture() -> np.ndarray:
        return firefox.screenshot(round(left + width), round(top + height))[round(top) :, round(left) :].astype(int)

    before = picture()
    firefox.drag((x, y), (x + step, y))
    assert np.abs(picture() - before).mean() > 2.0
    firefox.drag((x + step, y), (x, y))
    assert np.abs(picture() - before).mean() < 1.0  # back where it was
    firefox.evaluate("document.getElementById('play').click()")
    seen = set()
    for _ in range(20):
        seen.add(firefox.evaluate("document.getElementById('now').value"))
        time.sleep(0.1)
    assert seen == {"frame 9", "frame 10", "frame 11"}


@pytest.mark.nightly
def test_time_moves_what_moves_and_nothing_else(browser, page, config):
    facts = facts_of(page)
    size = facts["width"], facts["height"]
    browser.open(page, "bare=1&moment=0")
    first = browser.screenshot(*size).astype(int)
    browser.evaluate("setMoment(2)")
    second = browser.screenshot(*size).astype(int)
    changed = np.abs(first - second).max(-1) > 24
    browser.evaluate("press('dynamic', false); dirty = true")
    static = browser.screenshot(*size).astype(int)
    moving = (np.abs(first - static).max(-1) > 8) | (np.abs(second - static).max(-1) > 8)
    assert changed.sum() > 10
    assert (changed & ~moving).sum() == 0
    browser.open(page, "bare=1&moment=0&play=1")
    assert browser.evaluate("new Promise(done => setTimeout(() => done(state.moment), 1500))") is not None
    seen = {browser.evaluate("new Promise(done => setTimeout(() => done(state.moment), 90))") for _ in range(12)}
    assert len(seen) > 1
    assert browser.errors == []


@pytest.mark.nightly
def test_keys_and_drags_move_the_camera_within_its_bounds(browser, page):
    browser.open(page)
    x, y, width = browser.evaluate(
        "(b => [b.x + b.width / 2, b.y + b.height / 2, b.width])(canvas.getBoundingClientRect())"
    )
    browser.drag((round(x), round(y)), (round(x + 0.1 * width), round(y)))
    left = browser.evaluate("state.offset[0]")
    assert left == pytest.approx(-0.2, abs=0.02)
    browser.evaluate("canvas.focus()")
    browser.key("ArrowRight")
    assert browser.evaluate("state.offset[0]") == pytest.approx(left + 0.05)
    for _ in range(60):
        browser.key("ArrowRight")
    assert 0.9 < browser.evaluate("state.offset[0]") <= 1.0
    browser.key("Home")
    assert browser.evaluate("state.offset") == [0, 0, 0]


@pytest.mark.nightly
def test_saved_camera_path_is_the_view_on_the_page(browser, page, config, tmp_path):
    browser.open(page, "bare=1&moment=2&x=0.5&y=-0.3")
    path = tmp_path / "camera_path.json"
    path.write_text(browser.evaluate("JSON.stringify(cameraPath())"), encoding="utf-8")
    (keyframe,) = read_camera_path(path)
    cameras = load_cameras(config)
    np.testing.assert_allclose(cameras.from_world(keyframe.c2w_world), browser.evaluate("currentPose()"), atol=1e-5)
    assert keyframe.intrinsics.focal == pytest.approx(cameras.intrinsics.focal)
    assert keyframe.time == pytest.approx(11 / (cameras.timeline.n_frames - 1))
    (video,) = plan_videos(dataclasses.replace(config, camera_path=str(path), times=None), cameras)
    fields = build_fields(config)
    restore_fields(fields, config)
    rendered = ViewRenderer(fields, config, cameras).frame(video.views[0], video.interpolated).rgb.numpy()
    shot = browser.screenshot(cameras.intrinsics.width, cameras.intrinsics.height) / 255.0
    assert psnr(shot, rendered) > 28.0
    browser.evaluate("element('record').click()")
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    browser.evaluate("element('record').click()")
    assert browser.evaluate("cameraPath().camera_path.length") > 1


@pytest.mark.nightly
def test_without_webgl_a_picture_stands_in(browser, page):
    browser.call("Page.addScriptToEvaluateOnNewDocument", source="HTMLCanvasElement.prototype.getContext = () => null")
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=page.absolute().as_uri())
    assert browser.evaluate(
        "new Promise(done => setTimeout(() => done([element('still').hidden, element('view').hidden, "
        "element('still').naturalWidth > 0, element('message').textContent]), 2000))"
    ) == [False, True, True, "This browser shows no WebGL 2: one view of the scene stands in for it."]
    assert browser.errors == []


def test_page_during_training_is_small(config, tmp_path):
    fields, cameras = build_fields(config), load_cameras(config)
    running = dataclasses.replace(config, basedir=str(tmp_path), times=None, planes=64)
    running.experiment_dir.mkdir()
    refresh_viewer(running, cameras, fields, 7)
    assert step_of_page(running.experiment_dir / "viewer.html") == 7
    facts = facts_of(running.experiment_dir / "viewer.html")
    assert len(facts["depths"]) == 16
    assert facts["timestamps"] == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]
    assert facts["timestamps"][facts["start"]] in (8.0, 12.0)  # the target is frame 10


def test_summary_shows_the_viewer_of_its_step(page, config):
    shown = Page("summary")
    _add_viewer(shown, config.experiment_dir, step=2000)
    assert [block.kind for block in shown.blocks] == ["heading", "frame"]
    stale = Page("summary")
    _add_viewer(stale, config.experiment_dir, step=2001)
    assert "is of step 2000; run export_viewer.py again" in stale.blocks[1].text
    missing = Page("summary")
    _add_viewer(missing, config.experiment_dir / "viewer", step=2000)
    assert "run export_viewer.py" in missing.blocks[0].text
