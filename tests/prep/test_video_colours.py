"""Colours of videos: HDR, wide primaries, matrix and range, transparency."""

import numpy as np
import pytest
from made_clips import ffmpeg, frames_of, to_hdr, write_raw
from nsff.images import read_image
from toy_frames import textured

PATCHES = np.array(
    [
        (200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (235, 235, 235), (16, 16, 16), (200, 180, 40),
        (224, 160, 128),
    ]
)  # fmt: skip
LOSSLESS_HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none:lossless=1")


def colour_patches() -> np.ndarray:
    """Ten frames of columns in flat colours; RGB from the start, because ffmpeg draws its own sources in YUV."""
    return np.broadcast_to(np.repeat(PATCHES, 20, axis=0).astype(np.uint8), (10, 90, 160, 3))


def patch_colours(image: np.ndarray) -> np.ndarray:
    return np.stack([np.median(image[20:70, 20 * k + 5 : 20 * k + 15], axis=(0, 1)) for k in range(len(PATCHES))])


@pytest.mark.parametrize(("transfer", "name"), [("arib-std-b67", "HLG"), ("smpte2084", "PQ")])
def test_hdr_equals_the_sdr_original(transfer, name, tmp_path, caplog):
    clip = tmp_path / "hdr.mov"
    tags = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    write_raw(clip, colour_patches(), "-vf", to_hdr(transfer), *LOSSLESS_HEVC, *tags)
    found = patch_colours(read_image(frames_of(clip, tmp_path).paths[4]))
    assert np.abs(found - PATCHES).mean() <= 0.5
    assert np.abs(found - PATCHES).max() <= 2.0
    assert f"the video is converted: {name} BT.2020 to SDR BT.709" in caplog.messages


@pytest.mark.parametrize(("primaries", "tag"), [("2020", "bt2020"), ("smpte432", "smpte432")])
def test_wide_sdr_primaries_become_bt709(primaries, tag, tmp_path):
    clip = tmp_path / "wide.mov"
    convert = (
        f"format=gbrp,setparams=range=pc:color_primaries=bt709:color_trc=bt709:colorspace=gbr,zscale=p={primaries}"
    )
    tags = ("-color_primaries", tag, "-color_trc", "bt709", "-colorspace", "bt709")
    options = ("-vf", f"{convert}:m=709:r=tv,format=yuv420p10le", *LOSSLESS_HEVC, *tags)
    write_raw(clip, colour_patches(), *options)
    found = patch_colours(read_image(frames_of(clip, tmp_path).paths[4]))
    assert np.abs(found - PATCHES).max() <= 2.0


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_sdr_colours_keep_their_level(pixel_format, tmp_path):
    frames = np.stack([textured(k, 64, 96) for k in range(12)])
    matrix = ("-vf", f"scale=out_color_matrix=bt709:out_range=tv,format={pixel_format}", "-colorspace", "bt709")
    clip = write_raw(tmp_path / "sdr.mkv", frames, *matrix, "-color_range", "tv", "-c:v", "ffv1")
    found = np.stack([read_image(path) for path in frames_of(clip, tmp_path).paths])
    assert np.abs((found.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 0.5


def test_transparent_pixels_become_black(tmp_path):
    frames = np.stack([textured(k, 64, 96) for k in range(12)])
    clip = write_raw(tmp_path / "opaque.mkv", frames)
    holes = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(lt(X,48),0,255)'"
    ffmpeg("-i", clip, "-vf", holes, "-c:v", "qtrle", tmp_path / "alpha.mov")
    image = read_image(frames_of(tmp_path / "alpha.mov", tmp_path).paths[3])
    np.testing.assert_array_equal(image[:, :48], 0)
    np.testing.assert_array_equal(image[:, 48:], frames[3][:, 48:])
