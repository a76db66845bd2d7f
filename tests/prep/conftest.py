"""A scene folder to change."""

import shutil
from pathlib import Path

import pytest
from nsff.io import write_text


@pytest.fixture
def scene(small_scene: Path, tmp_path: Path) -> Path:
    """A scene with all files, and a COLMAP model."""
    folder = shutil.copytree(small_scene, tmp_path / "scene")
    images = "".join(f"{k + 1} 1 0 0 0 0 0 0 1 {k:05d}.png\n64 36 1\n" for k in range(12))
    write_text(folder / "sparse" / "cameras.txt", "1 PINHOLE 128 72 109 109 64 36\n")
    write_text(folder / "sparse" / "images.txt", images)
    write_text(
        folder / "sparse" / "points3D.txt", "1 0 0 5 255 255 255 0.1 " + "".join(f"{k + 1} 0 " for k in range(12))
    )
    return folder
