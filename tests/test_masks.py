"""Masks of every kind that tools write: the same pixels move, to the pixel, wherever they are read."""

from collections.abc import Callable
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
from nsff.errors import InputError
from nsff.masks import MaskFolder

N_FRAMES = 6
DAVIS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128] + [64] * 753


def true_labels(index: int) -> np.ndarray:
    """Three squares of 20x20 pixels with labels 1 to 3; the last frame is empty."""
    labels = np.zeros((90, 160), np.uint8)
    if index < N_FRAMES - 1:
        for k in range(3):
            labels[20:40, 10 + 45 * k + index : 30 + 45 * k + index] = k + 1
    return labels


def as_palette(labels, _):
    image = PIL.Image.fromarray(labels, "P")
    image.putpalette(DAVIS)
    return image


def as_black_palette(labels, _):
    image = PIL.Image.fromarray(labels, "P")
    image.putpalette([0] * 768)
    return image


def with_alpha(labels, rng):
    """A cut-out: the picture, opaque where something moves."""
    picture = rng.integers(0, 256, (*labels.shape, 3), np.uint8)
    return PIL.Image.fromarray(np.dstack([picture, np.where(labels, 255, 0).astype(np.uint8)]))


def white_with_alpha(labels, _):
    return PIL.Image.fromarray(
        np.dstack([np.full((*labels.shape, 3), 255, np.uint8), 255 * (labels > 0)]).astype(np.uint8)
    )


def opaque(labels, _):
    return PIL.Image.fromarray(np.dstack([255 * (labels > 0)] * 3 + [np.full(labels.shape, 255)]).astype(np.uint8))


def noisy(labels, rng):
    return PIL.Image.fromarray(np.where(labels, 252, 0).astype(np.uint8) + rng.integers(0, 4, labels.shape, np.uint8))


def noisy_video(labels, rng):
    noise = rng.normal(0, 3, labels.shape).round()
    return PIL.Image.fromarray((np.where(labels, 235, 16) + noise).clip(0, 255).astype(np.uint8))


COLOURS = np.array([[0, 0, 0], [0, 255, 0], [0, 0, 90], [255, 0, 255]], np.uint8)
KINDS: dict[str, Callable] = {
    "white": lambda labels, _: PIL.Image.fromarray(np.where(labels, 255, 0).astype(np.uint8)),
    "labels": lambda labels, _: PIL.Image.fromarray(labels),
    "zero or one": lambda labels, _: PIL.Image.fromarray((labels > 0).astype(np.uint8)),
    "labels and void": lambda labels, _: PIL.Image.fromarray(np.where(labels == 3, 255, labels).astype(np.uint8)),
    "palette": as_palette,
    "palette without colours": as_black_palette,
    "colours": lambda labels, _: PIL.Image.fromarray(COLOURS[labels]),
    "1 bit": lambda labels, _: PIL.Image.fromarray(labels > 0),
    "16 bit": lambda labels, _: PIL.Image.fromarray(np.where(labels, 65535, 0).astype(np.uint16)),
    "16 bit labels": lambda labels, _: PIL.Image.fromarray(labels.astype(np.uint16)),
    "16 bit instances": lambda labels, _: PIL.Image.fromarray(labels.astype(np.uint16) * 13000),
    "alpha of a cut-out": with_alpha,
    "alpha of white": white_with_alpha,
    "opaque alpha": opaque,
    "grey and alpha": lambda labels, rng: with_alpha(labels, rng).convert("LA"),
    "video black": lambda labels, _: PIL.Image.fromarray(np.where(labels, 235, 16).astype(np.uint8)),
    "noise": noisy,
    "noise around video black": noisy_video,
}  # fmt: skip


def write_masks(folder: Path, kind: str, name: str = "{:05d}.png") -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = [folder / name.format(k) for k in range(N_FRAMES)]
    for k, path in enumerate(paths):
        KINDS[kind](true_labels(k), rng).save(path)
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_move_in_masks_of_every_kind(tmp_path, kind):
    paths = write_masks(tmp_path / "masks", kind)
    masks = MaskFolder(paths)
    for k, path in enumerate(paths):
        np.testing.assert_array_equal(masks.read(path), true_labels(k) > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_of_8_and_16_bits(tmp_path, dtype):
    labels = true_labels(0)
    assert cv2.imwrite(str(tmp_path / "a.png"), labels[..., None].repeat(3, -1).astype(dtype))
    np.testing.assert_array_equal(MaskFolder([tmp_path / "a.png"]).read(tmp_path / "a.png"), labels > 0)


def test_float_masks_of_tif(tmp_path):
    PIL.Image.fromarray((true_labels(0) > 0).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(MaskFolder([tmp_path / "a.tif"]).read(tmp_path / "a.tif"), true_labels(0) > 0)


def test_empty_frames_of_a_video_among_full_range_ones(tmp_path):
    paths = write_masks(tmp_path / "masks", "white")
    PIL.Image.new("L", (160, 90), 16).save(paths[-1])
    masks = MaskFolder(paths)
    assert [int(masks.read(path).sum()) for path in paths] == [1200] * 5 + [0]


def test_every_level_but_black_moves_as_published(tmp_path):
    """Soft edges and single pixels of level 1 are no noise."""
    soft = cv2.GaussianBlur(np.where(true_labels(0), 255, 0).astype(np.uint8), (0, 0), 2.0)
    soft[80, 80] = 1
    cv2.circle(soft, (60, 70), 12, 255, -1, cv2.LINE_AA)
    cv2.line(soft, (90, 50), (150, 88), 255, 5, cv2.LINE_AA)
    PIL.Image.fromarray(soft).save(tmp_path / "a.png")
    np.testing.assert_array_equal(MaskFolder([tmp_path / "a.png"]).read(tmp_path / "a.png"), soft > 0)


PALETTES = {
    "white": [[0, 0, 0], [255, 255, 255], [255, 255, 255], [255, 255, 255]],
    "grey": [[0, 0, 0], [80, 80, 80], [160, 160, 160], [240, 240, 240]],
    "colours": [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 128]],
}


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("suffix", ["jpg", "webp", "mp4"])
def test_compressed_masks_are_right_but_for_pixels_at_edges(tmp_path, palette, suffix):
    pictures = [np.array(PALETTES[palette], np.uint8)[true_labels(k)] for k in range(N_FRAMES)]
    paths = [tmp_path / f"{k}.{'png' if suffix == 'mp4' else suffix}" for k in range(N_FRAMES)]
    if suffix == "mp4":
        iio.imwrite(tmp_path / "a.mp4", np.stack(pictures), plugin="FFMPEG", fps=10, macro_block_size=2)
        pictures = list(iio.imiter(tmp_path / "a.mp4", plugin="FFMPEG"))
    for path, picture in zip(paths, pictures, strict=True):
        PIL.Image.fromarray(picture).save(path)
    masks = MaskFolder(paths)
    for k, path in enumerate(paths):
        assert (masks.read(path) != (true_labels(k) > 0)).sum() <= 40  # of 456 on both sides of the edges


def test_dark_colours_of_compressed_masks_move(tmp_path):
    labels = true_labels(0)
    colours = np.array([[0, 0, 0], [64, 0, 0], [0, 128, 0], [0, 0, 192]], np.uint8)[labels]
    PIL.Image.fromarray(colours).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    moving = MaskFolder([tmp_path / "a.jpg"]).read(tmp_path / "a.jpg")
    assert [int(moving[labels == k].sum()) for k in (1, 2, 3)] == [400, 400, 400]
    assert moving[labels == 0].sum() <= 120


def test_noise_alone_moves_nothing_and_white_alone_everything(tmp_path):
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 4, (90, 160), np.uint8)).save(tmp_path / "noise.png")
    PIL.Image.new("L", (160, 90), 16).save(tmp_path / "black.png")
    PIL.Image.new("L", (160, 90), 255).save(tmp_path / "white.png")
    PIL.Image.new("L", (160, 90), 0).save(tmp_path / "zero.png")
    fractions = {
        name: MaskFolder([path]).read(path).mean()
        for name in ("noise", "black", "white", "zero")
        for path in [tmp_path / f"{name}.png"]
    }
    assert fractions == {"noise": 0.0, "black": 0.0, "white": 1.0, "zero": 0.0}


def test_masks_that_are_lost_as_noise_are_refused(tmp_path):
    paths = write_masks(tmp_path / "masks", "noise")
    dim = np.where(true_labels(0), 90, 0).astype(np.uint8)
    PIL.Image.fromarray(dim).save(paths[-1])
    for path in paths[:-1]:  # much more of 255 than of 90
        noise = np.random.default_rng(1).integers(0, 4, (900, 1600), np.uint8)
        noise[100:600] = 255
        PIL.Image.fromarray(noise).save(path)
    with pytest.raises(InputError, match=r"00005\.png: grey levels up to 90 are taken as noise"):
        MaskFolder(paths).read(paths[-1])


def test_broken_mask_is_named(tmp_path):
    paths = write_masks(tmp_path / "masks", "noise")
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    with pytest.raises(InputError, match=r"00003\.png cannot be read, it may be cut off"):
        MaskFolder(paths).read(paths[0])


@pytest.mark.parametrize(
    ("of_motion", "size", "said"), [(True, 20, "75%"), (True, 5, "98%"), (False, 5, ""), (True, 30, "")]
)
def test_masks_that_cover_most_are_doubted_with_the_polarity(tmp_path, caplog, of_motion, size, said):
    mask = np.full((40, 40), 255, np.uint8)
    mask[:size, :size] = 0
    PIL.Image.fromarray(mask).save(tmp_path / "a.png")
    rule = MaskFolder([tmp_path / "a.png"], of_motion).rule
    assert rule.coverage == pytest.approx(1.0 - (size / 40) ** 2)
    assert (f"cover {said} of the frames; white means moving: are black and white" in caplog.text) == bool(said)
