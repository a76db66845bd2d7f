"""The summary page of an experiment, and HTML pages in general."""

import base64
import dataclasses
import json
import re
import tracemalloc

import imageio.v3 as iio
import numpy as np
import pytest
from nsff.errors import InputError
from nsff.evaluation.scores import CheckpointSource, EvaluationReport, ImageScores, MeanScore, RegionScores, ViewScore
from nsff.report.experiment_page import draw_curves, find_videos, input_pictures, read_curves, write_summary
from nsff.report.html import Page
from torch.utils.tensorboard import SummaryWriter


def write_video(path, n_frames, brightness):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((n_frames, 32, 48, 3), brightness, np.uint8)
    iio.imwrite(path, frames, plugin="FFMPEG", fps=10, macro_block_size=2)


def embedded(page: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf"data:{kind};base64,([A-Za-z0-9+/=]+)", page)]


@pytest.fixture
def experiment(trained, tmp_path):
    """The golden checkpoint with a rendered video, curves, an evaluation and a health report."""
    config = dataclasses.replace(trained, basedir=str(tmp_path), ft_path=None)
    folder = config.experiment_dir
    folder.mkdir(parents=True)
    (folder / "002000.tar").symlink_to(trained.experiment_dir / "002000.tar")
    write_video(folder / "render-spiral-frame-010_path_002000" / "video.mp4", 7, 200)
    with SummaryWriter(str(folder)) as board:
        for step in (10, 20, 30):
            board.add_scalar("train/psnr", 20.0 + step, step)
            board.add_scalar("loss/total", 1.0 / step, step)
    image = ImageScores(RegionScores(psnr=23.456, ssim=0.9), RegionScores(), RegionScores())
    report = EvaluationReport(
        "nsff-fixed", MeanScore(image), [ViewScore(name, image) for name in "abc"], [], 3,
        CheckpointSource("002000.tar", 2000), "evaluation.py", {},
    )  # fmt: skip
    (folder / "metrics_nsff-fixed.json").write_text(json.dumps(report.to_json()))
    check = {
        "name": "parallax",
        "value": 3.0,
        "unit": "%",
        "verdict": "fair",
        "meaning": "shift <of> it",
        "advice": "x",
    }
    (folder / "health.json").write_text(json.dumps({"checkpoint": {"step": 2000}, "checks": [check]}))
    return config


def test_summary_embeds_videos_curves_and_scores(experiment, tmp_path):
    path = write_summary(experiment)
    page = path.read_text()
    assert path == experiment.experiment_dir / "summary.html"
    assert "http" not in page
    lengths = []
    for index, content in enumerate(embedded(page, "video/mp4")):
        (tmp_path / f"{index}.mp4").write_bytes(content)
        lengths.append(len(iio.imread(tmp_path / f"{index}.mp4", plugin="FFMPEG")))
    assert lengths == [experiment.n_frames, 7]
    gif = iio.imread(path.with_suffix(".gif"), index=None)
    assert gif.shape[1:3] == (144, 2 * 256 + 4)
    assert len(gif) == experiment.n_frames  # of 30 frames; equal neighbours are merged
    assert np.abs(gif[3, :, -200:].astype(int) - 200).mean() < 8.0  # the video is grey
    assert "Frozen time, moving camera" in page
    assert "23.46" in page
    assert "shift &lt;of&gt; it" in page
    assert len(embedded(page, "image/png")) == 1
    assert page.count('<a href="metrics_nsff-fixed.html">') == page.count('<a href="health.html">') == 1


def test_input_pictures_show_frame_mask_and_disparity(golden_scene):
    pictures = list(input_pictures(golden_scene))
    assert len(pictures) == len(golden_scene.images)
    frame, marked, near = np.split(pictures[5].astype(float), 3, axis=1)
    mask = golden_scene.motion_masks[5].numpy()
    assert np.abs(frame / 255.0 - golden_scene.image(5).numpy()).max() < 0.003
    np.testing.assert_array_equal(marked[~mask], frame[~mask])
    assert (marked[mask][:, 0] > 0.6 * 255 - 1).all()
    disparity = golden_scene.disparity[5].numpy()
    assert near.sum(-1)[disparity > np.percentile(disparity, 95)].mean() > near.sum(-1).mean()


def test_input_pictures_hold_one_frame_at_a_time(golden_scene):
    """Peak memory of 24 frames is that of a few, as for a memory-mapped scene."""
    picture_bytes = 3 * golden_scene.image(0).numpy().nbytes
    tracemalloc.start()
    for _ in input_pictures(golden_scene):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * picture_bytes  # all in float64: 48


def test_find_videos_prefers_newest_of_a_kind(tmp_path):
    for name in ("render-spiral-frame-003_path_1", "render-spiral-frame-010_path_2", "render-bullet_time_loop-x"):
        write_video(tmp_path / name / "video.mp4", 2, 0)
    videos = find_videos(tmp_path)
    assert list(videos) == ["Frozen time, moving camera", "render-bullet_time_loop-x"]
    assert videos["Frozen time, moving camera"].parent.name == "render-spiral-frame-010_path_2"


def test_read_curves_returns_logged_values(experiment):
    curves = read_curves(experiment.experiment_dir)
    np.testing.assert_allclose(curves["train/psnr"], [[10, 30.0], [20, 40.0], [30, 50.0]])
    assert "held-out/psnr" not in curves
    assert iio.imread(draw_curves(curves)).shape[2] == 4


def test_summary_refuses_missing_checkpoint_and_broken_reports(experiment):
    with pytest.raises(InputError, match=r"has no checkpoint; run run_nerf\.py first"):
        write_summary(dataclasses.replace(experiment, expname="other"))
    (experiment.experiment_dir / "metrics_nsff-fixed.json").write_text('{"protocol": ')
    with pytest.raises(InputError, match=r"metrics_nsff-fixed\.json is not a complete report; delete it and run eval"):
        write_summary(experiment)
    (experiment.experiment_dir / "metrics_nsff-fixed.json").unlink()
    (experiment.experiment_dir / "health.json").write_text("{}")
    with pytest.raises(InputError, match=r"health\.json is not a complete health report; delete it and run diagnose"):
        write_summary(experiment)


def test_page_escapes_texts_and_shows_every_block(tmp_path):
    page = Page("a <title> & more")
    page.heading("<h>", 3)
    page.text("x < y", small=True)
    page.link("<link>", 'a"b.html')
    page.table([["head", "<th>"], ["cell", "<td>"]], sentences=True)
    page.pictures({"<caption>": np.zeros((4, 1000, 3), np.uint8)})
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<title>a &lt;title&gt; &amp; more</title>" in text
    assert "<h3>&lt;h&gt;</h3>" in text
    assert '<p class="small">x &lt; y</p>' in text
    assert '<a href="a&#34;b.html">&lt;link&gt;</a>' in text
    assert '<table class="sentences">' in text
    assert "<tr><td>cell</td><td>&lt;td&gt;</td></tr>" in text
    assert "<figcaption>&lt;caption&gt;</figcaption>" in text
    assert iio.imread(embedded(text, "image/jpeg")[0]).shape[1] == 480
