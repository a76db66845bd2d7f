"""Videos as devices write them: pixel aspect, fields, rotation, containers, streams, reasons of failure."""

import dataclasses
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_clips import H264, TEST_PICTURE, ffmpeg, frames_of, make_clip, write_raw
from nsff.errors import InputError
from nsff.images import read_image
from nsff.prep.ffmpeg import VideoStream, best_video_stream, decode, parse_video_streams, reason_of
from nsff.prep.interlacing import combing, flagged_order, suspected_order
from nsff.prep.video_scan import rising_times, scan_video, select_filter
from script_runs import error_of
from toy_frames import textured

FIELDS = ("-flags", "+ilme+ildct")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-r", "25")
DV = ("-s", "720x576", "-r", "25", "-c:v", "dvvideo", "-pix_fmt", "yuv420p")


@pytest.mark.parametrize(
    ("stored", "aspect", "turn", "shown"),
    [
        ("120:90", "4/3", None, (90, 160)),
        ("180:90", "8/9", None, (90, 160)),
        ("120:90", "4/3", "90", (160, 90)),  # the long side of the picture stays the long side
        ("160:90", "1/1", None, (90, 160)),
        ("160:90", "0/1", None, (90, 160)),  # not stated
    ],
)
def test_pixels_become_square(stored, aspect, turn, shown, tmp_path, caplog):
    clip = make_clip(tmp_path / "stored.mp4", "-vf", f"scale={stored},setsar={aspect}")
    if turn:
        ffmpeg("-display_rotation", turn, "-i", clip, "-c", "copy", tmp_path / "turned.mp4")
        clip = tmp_path / "turned.mp4"
    image = read_image(frames_of(clip, tmp_path).paths[0])
    assert image.shape[:2] == shown
    assert any("square" in message for message in caplog.messages) == (aspect in ("4/3", "8/9"))


def moving_pictures(n_frames: int, height: int = 96, width: int = 160) -> np.ndarray:
    """A grey picture that moves 3 pixels to the right per frame."""
    wide = cv2.GaussianBlur(textured(3, height, width + 3 * n_frames)[..., :1].repeat(3, axis=-1), (0, 0), 1.2)
    return np.stack([wide[:, 3 * (n_frames - k) : 3 * (n_frames - k) + width] for k in range(n_frames)])


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    """40 progressive frames, for clips of 20 frames of two fields."""
    return write_raw(tmp_path_factory.mktemp("fields") / "frames.mkv", moving_pictures(40), rate=40)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", ("-vf", "tinterlace=interleave_top,setfield=tff", *H264, "-crf", "8", *FIELDS)),
        ("mts", ("-vf", "tinterlace=interleave_bottom,setfield=bff", *MPEG2, *FIELDS)),
        ("mp4", ("-vf", "tinterlace=interleave_top,setfield=prog", *H264, "-crf", "8")),  # the stream says nothing
        ("mpg", ("-vf", "tinterlace=interleave_bottom,setfield=prog", *MPEG2)),
    ],
)  # fmt: skip
def test_fields_become_frames(fields, suffix, options, tmp_path, caplog):
    """Rows of two times differ by far more than those of the pictures that went in."""
    ffmpeg("-i", fields, *options, tmp_path / f"fields.{suffix}")
    image = read_image(frames_of(tmp_path / f"fields.{suffix}", tmp_path).paths[9]).astype(float)
    true = moving_pictures(40)[18:20].astype(float)
    rows = np.abs(np.diff(image[8:-8], axis=0)).mean()
    assert rows < 1.15 * np.abs(np.diff(true[0, 8:-8], axis=0)).mean()
    error = min(np.abs(image - picture).mean() for picture in true)  # of one of the two, not of their mixture
    assert error < 0.25 * np.abs(true[0] - true[1]).mean()
    assert any("interlaced" in message for message in caplog.messages)


def test_fields_of_a_turned_clip_are_its_stored_rows(fields, tmp_path):
    clip, turned = tmp_path / "fields.mp4", tmp_path / "turned.mp4"
    options = ("-vf", "tinterlace=interleave_top,setfield=tff", *H264, "-crf", "8", *FIELDS)
    ffmpeg("-i", fields, *options, clip)
    ffmpeg("-display_rotation", "-90", "-i", clip, "-c", "copy", turned)
    straight, upright = (read_image(frames_of(path, tmp_path / path.stem).paths[9]) for path in (clip, turned))
    np.testing.assert_array_equal(upright, np.rot90(straight, -1))


@pytest.mark.parametrize("source", [TEST_PICTURE, "mandelbrot=size=160x90:rate=10", "life=size=160x90:rate=10:mold=10"])
def test_progressive_clips_are_not_deinterlaced(source, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", "-t", "2", source=source)
    assert scan_video(clip).field_order == ""


def test_interlacing_by_hand_values():
    rows = np.arange(6, dtype=np.uint8)[:, None] * np.full((1, 4), 10, np.uint8)
    assert combing([rows]) == pytest.approx(0.5)  # neighbours differ by 10, rows two apart by 20
    combed = np.array([[0], [90], [10], [100]], np.uint8)
    assert combing([combed]) == pytest.approx((90 + 80 + 90) / 3 / 10)
    assert combing([]) == 0.0
    assert flagged_order(["P"] * 9 + ["T"]) == ""
    assert flagged_order(["T", "B", "B", "P"]) == "B"
    assert suspected_order("", (9, 0, 1), 10) == "T"
    assert suspected_order("", (5, 0, 5), 10) == ""
    assert suspected_order("", (2, 0, 0), 10) == ""  # too few frames tell
    assert suspected_order("B", (0, 0, 10), 10) == "B"


@pytest.mark.parametrize(("angle", "turns"), [("90", 1), ("180", 2), ("-90", -1)])
def test_display_matrix_is_applied_once(angle, turns, tmp_path):
    frames = np.stack([textured(k, 64, 96) for k in range(12)])
    clip = write_raw(tmp_path / "stored.mp4", frames)
    ffmpeg("-display_rotation", angle, "-i", clip, "-c", "copy", tmp_path / "turned.mp4")
    image = read_image(frames_of(tmp_path / "turned.mp4", tmp_path).paths[5])
    np.testing.assert_array_equal(image, np.rot90(frames[5], turns))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("plain") / "clip.mp4")


SUFFIXES = ("m4v", "3gp", "mts", "ts", "flv", "mxf", "qt", "insv", "LRV", "MOV", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_suffix_is_taken(suffix, plain, tmp_path):
    formats = {"insv": "mp4", "LRV": "mp4", "qt": "mov", "": "mp4", "mts": "mpegts"}
    clip = tmp_path / f"clip.{suffix}".rstrip(".")
    options = ("-f", formats[suffix]) if suffix in formats else ()
    ffmpeg("-i", plain, *(MPEG2 if suffix == "mxf" else ("-c", "copy")), *options, clip)
    assert len(frames_of(clip, tmp_path).paths) == 20


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("ogv", ("-c:v", "libtheora")), ("gif", ("-c:v", "gif")), ("dv", DV)],
)
def test_formats_of_their_own_are_taken(suffix, options, tmp_path):
    clip = make_clip(tmp_path / f"clip.{suffix}", *options)
    assert len(frames_of(clip, tmp_path).paths) == 20  # of the 50 of DV, 30 are repeats


def test_browser_clip_of_1000_frames_per_second_is_taken(tmp_path):
    options = ("-vf", "setpts=N*33/1000/TB", "-fps_mode", "passthrough", "-c:v", "libvpx")
    clip = make_clip(tmp_path / "clip.webm", *options, source="testsrc2=size=160x90:rate=1000:duration=0.02")
    frames = frames_of(clip, tmp_path)
    np.testing.assert_allclose(frames.times, 0.033 * np.arange(20), atol=1e-9)


@pytest.mark.parametrize("name", ["a:b.mp4", "100%d.mp4", "-clip.mp4", "mit Umläuten 你好.mp4", "[x]'.mp4"])
def test_any_name_is_taken(name, plain, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(Path(name), tmp_path).paths) == 20


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_cover_picture_is_no_video(container, plain, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=640x640", "-frames:v", "1", tmp_path / "cover.jpg")
    clip = tmp_path / f"clip.{container}"
    streams = ("-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", plain, "-i", tmp_path / "cover.jpg", *streams, clip)
    frames = frames_of(clip, tmp_path)
    assert len(frames.paths) == 20
    assert read_image(frames.paths[0]).shape[:2] == (90, 160)


def test_song_with_a_cover_holds_no_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=64x64", "-frames:v", "1", tmp_path / "cover.jpg")
    song = ("-f", "lavfi", "-i", "sine=duration=1", "-i", tmp_path / "cover.jpg", "-map", "0", "-map", "1")
    ffmpeg(*song, "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", tmp_path / "song.m4a")
    error = error_of("run_colmap.py", "--video", tmp_path / "song.m4a", "--data_path", tmp_path / "scene")
    assert error.endswith("song.m4a holds only a cover picture; give a file with a video to --video")


def test_reasons_of_failure(plain, tmp_path, monkeypatch):
    def error(clip: Path) -> str:
        return error_of("run_colmap.py", "--video", clip, "--data_path", tmp_path / "scene")

    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.m4a")
    assert "sound.m4a holds no video stream; give a file with a video" in error(tmp_path / "sound.m4a")
    (tmp_path / "cut.mp4").write_bytes(plain.read_bytes()[:3000])
    assert "cut.mp4 cannot be read as a video (ffmpeg: " in error(tmp_path / "cut.mp4")
    assert "missing.mp4 is missing; give --video FILE" in error(tmp_path / "missing.mp4")
    assert error(tmp_path).endswith("is a folder; give a file to --video, or a folder of pictures to --images")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    expected = "no ffmpeg was found at /nowhere/ffmpeg, which reads videos; set IMAGEIO_FFMPEG_EXE to the path of one"
    assert error(plain).startswith(expected)


def test_pictures_that_change_their_size_are_refused(tmp_path):
    for name, size in (("a", "160x90"), ("b", "120x90")):
        make_clip(tmp_path / f"{name}.ts", source=f"testsrc2=size={size}:rate=10:duration=1")
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(InputError, match=r"both\.ts: pictures change from 160x90 to 120x90 after .* s; cut the clip"):
        frames_of(tmp_path / "both.ts", tmp_path)


def test_reason_is_the_last_line_that_tells_one():
    lines = ["[mov @ 0x5] moov atom not found", "Error opening input files: Invalid data found"]
    assert reason_of(lines) == "Invalid data found"
    assert reason_of([]) == "no message"


def test_streams_are_parsed():
    lines = [
        "Input #0, mov,mp4, from 'file:/x, 640x480.mov':",
        "  Stream #0:0[0x1](eng): Audio: aac (LC), 48000 Hz",
        "  Stream #0:1[0x2](und): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc), "
        "1920x1080, 9 kb/s, 30 fps (default)",
        "      Side data:",
        "        Display Matrix: rotation of -90.00 degrees",
        "  Stream #0:2[0x0]: Video: mjpeg (Baseline), yuvj420p(pc), 120x90 [SAR 1:1 DAR 4:3], 90k tbr (attached pic)",
        "  Stream #0:3: Video: h264, yuv420p(top coded first (swapped)), 64x36, 25 fps",
    ]
    video = VideoStream(1, 1920, 1080, attached_picture=False, default=True, rotation=-90.0)
    cover = VideoStream(2, 120, 90, attached_picture=True, default=False)
    small = VideoStream(3, 64, 36, attached_picture=False, default=False, field_order="T")
    assert parse_video_streams(lines) == [video, cover, small]
    assert video.turned
    assert not dataclasses.replace(video, rotation=180.0).turned


def test_variable_rate_gives_the_right_frames(tmp_path):
    """20 frames in 2 s, then 60 in 1 s; frame k is of grey level 40 + 2 k on the left."""
    frames = np.stack([textured(k, 48, 64) for k in range(80)])
    frames[:, :, :32] = (40 + 2 * np.arange(80))[:, None, None, None]
    times = "settb=1/600,setpts='round(if(lt(N,20),N/10,2+(N-20)/60)/TB)'"
    clip = write_raw(tmp_path / "vfr.mp4", frames, "-vf", times, "-fps_mode", "passthrough", "-enc_time_base", "1/600")
    for wish, expected in (
        ({"start": 2.0}, list(range(20, 80))),
        ({"end": 1.5}, list(range(15))),
        ({"fps": 10.0}, [*range(20), *range(20, 80, 6)]),
    ):
        found = frames_of(clip, tmp_path, **wish)
        assert found.indices == expected
        assert [round((read_image(path)[24, 10, 0] - 40) / 2) for path in found.paths] == expected


def test_times_never_fall_and_gaps_are_filled():
    times = rising_times(np.array([5.0, 5.1, np.nan, 5.3, 5.29, 5.5]))
    np.testing.assert_allclose(times, [0.0, 0.1, 0.2, 0.3, 0.3, 0.5])


def test_repeated_frames_of_a_coded_clip_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nsff")
    pictures = moving_pictures(24)
    doubled = np.repeat(pictures, [2 if k % 4 == 3 else 1 for k in range(24)], axis=0)
    clip = write_raw(tmp_path / "pulldown.mp4", doubled, *H264, "-g", "5", rate=30)
    frames = frames_of(clip, tmp_path)
    assert frames.n_source == 30
    assert frames.indices == [k for k in range(30) if k % 5 != 4]
    assert "6 repeated frames are left out" in caplog.messages


def test_selected_frames_are_decoded(plain):
    stream = best_video_stream(plain)
    everything = list(decode(plain, stream, ["format=rgb24"], (90, 160, 3)))
    wanted = [0, 1, 2, 5, 7, 9, 19]
    chosen = list(decode(plain, stream, [select_filter(wanted), "format=rgb24"], (90, 160, 3), n_frames=len(wanted)))
    np.testing.assert_array_equal(chosen, [everything[k] for k in wanted])
    assert select_filter([4]) == "select='eq(n,4)'"
    assert select_filter(range(3, 30, 3)) == "select='between(n,3,27)*not(mod(n-3,3))'"
