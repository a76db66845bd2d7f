"""Images: which files of a folder are taken, in which order, and how they are read."""

import logging

import cv2
import numpy as np
import PIL.Image
import pytest
from nsff.errors import InputError
from nsff.images import image_size, list_images, natural_order, read_image, read_pixels
from nsff.io import read_text, write_image
from toy_frames import textured


def write_image_files(folder, names):
    for name in names:
        folder.mkdir(exist_ok=True)
        data = cv2.imencode(f".{name.rpartition('.')[2].lower()}", textured(0, 8, 8))[1]
        (folder / name).write_bytes(data.tobytes())


def test_natural_order_of_numbers_of_any_length():
    names = ["b1", "a10", "a2", "a02", "a", "a\u00b2", "a2b10", "a2b9"]
    assert sorted(names, key=natural_order) == ["a", "a02", "a2", "a2b9", "a2b10", "a10", "a\u00b2", "b1"]
    names = ["frame1.png", "frame10.png", "frame2.jpg", "frame.png", "a1.png", "a (1).png", "a (1)b.png"]
    assert sorted(names, key=natural_order) == [
        "a (1).png", "a (1)b.png", "a1.png", "frame.png", "frame1.png", "frame2.jpg", "frame10.png",
    ]  # fmt: skip


def test_list_images_takes_any_case_and_skips_hidden_files(tmp_path):
    write_image_files(tmp_path / "in", ["f2.PNG", "f10.jpg", "f1.JPeG", "f3.TIF", "f4.webp", "f5.Bmp"])
    for name in ("._f1.png", ".DS_Store", "Thumbs.db", ".partial-1-f1.png"):
        (tmp_path / "in" / name).write_bytes(b"\0\5\26\7")
    names = [path.name for path in list_images(tmp_path / "in")]
    assert names == ["f1.JPeG", "f2.PNG", "f3.TIF", "f4.webp", "f5.Bmp", "f10.jpg"]


def test_list_images_says_where_natural_order_differs_from_plain(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_image_files(tmp_path / "padded", ["08.png", "09.png", "10.png"])
    list_images(tmp_path / "padded")
    assert caplog.text == ""
    write_image_files(tmp_path / "in", [f"frame_{k}.png" for k in range(1, 12)])
    for _ in range(2):
        assert [path.stem for path in list_images(tmp_path / "in")][:3] == ["frame_1", "frame_2", "frame_3"]
    assert caplog.text.count("natural order, frame_2.png before frame_10.png") == 1


def test_list_images_names_formats_that_cannot_be_read(tmp_path, caplog):
    write_image_files(tmp_path / "in", ["1.png", "3.png"])
    (tmp_path / "in" / "2.HEIC").write_bytes(b"heic")
    assert len(list_images(tmp_path / "in")) == 2
    assert "2.HEIC cannot be read and would be missing among the 2 images; convert" in caplog.text
    for name in ("1.png", "3.png"):
        (tmp_path / "in" / name).unlink()
    with pytest.raises(InputError, match=r"holds no image .* \(found 2\.HEIC: convert them\); give --images"):
        list_images(tmp_path / "in", "give --images DIR")


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".bmp", ".ppm", ".avif"])
def test_read_image_of_other_formats(tmp_path, suffix):
    pixels = np.full((24, 32, 3), (200, 40, 90), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    for read in (read_image, read_pixels):
        assert np.abs(read(tmp_path / f"a{suffix}").astype(int) - pixels).max() <= (3 if suffix == ".avif" else 0)
    assert image_size(tmp_path / f"a{suffix}") == (32, 24)


@pytest.mark.parametrize("read", [read_image, read_pixels])
def test_transparent_pixels_are_composited_on_black_and_said_once(tmp_path, caplog, read):
    rgba = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    rgba[:3, :, 3], rgba[3:, :4, 3], rgba[3:, 4:] = 0, 255, (200, 100, 50, 51)
    for name in ("0.png", "1.png"):
        PIL.Image.fromarray(rgba).save(tmp_path / name)
        pixels = read(tmp_path / name)
        assert not pixels[:3].any()
        np.testing.assert_array_equal(pixels[3:, :4], rgba[3:, :4, :3])
        assert pixels[5, 7].tolist() == [40, 20, 10]  # 51 / 255 = 1 / 5
    assert caplog.text.count("composited on black") == 1


def test_transparent_colour_of_palette_is_composited_on_black(tmp_path):
    image = PIL.Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([250, 0, 0, 0, 90, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 0], [0, 90, 0]]


def test_opaque_alpha_changes_nothing(tmp_path, caplog):
    rgba = np.dstack([textured(1, 8, 8), np.full((8, 8), 255, np.uint8)])
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgba[..., :3])
    assert caplog.text == ""


def test_read_text_without_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn\r\n")
    assert read_text(tmp_path / "a.txt") == "gr\u00fcn\n"


def test_write_image_keeps_names_of_any_alphabet(tmp_path):
    write_image(tmp_path / "\u7530.png", textured(0, 8, 8))
    assert read_image(tmp_path / "\u7530.png").shape == (8, 8, 3)
