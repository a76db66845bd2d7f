"""Frames and priors in memory-mapped files: equal values, built once, bounded memory."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nsff.data.frame_store import FrameCache
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def mapped(golden, paper_config, tmp_path):
    shutil.copytree(golden / "scene", tmp_path / "scene")
    return dataclasses.replace(paper_config, datadir=str(tmp_path / "scene"), cache_gb=0.0)


def test_mapped_scene_equals_scene_in_memory(mapped, paper_scene):
    scene = load_scene(mapped, CPU)
    for field in dataclasses.fields(scene):
        if isinstance(value := getattr(scene, field.name), torch.Tensor):
            assert torch.equal(value, getattr(paper_scene, field.name)), field.name
    scene.release_pages()
    assert torch.equal(scene.images, paper_scene.images)
    folder = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24"
    assert (folder / "images.npy").stat().st_size == 128 + paper_scene.images.numel() * 4


def test_training_on_mapped_scene_gives_bit_identical_losses(mapped, paper_scene):
    config = dataclasses.replace(mapped, netwidth=16, N_samples=8, N_rand=32, num_extra_sample=8, background_rays=16)
    trainers = [Trainer(config, scene, CPU) for scene in (load_scene(mapped, CPU), paper_scene)]
    for _ in range(3):
        losses = [trainer.train_step().loss for trainer in trainers]
        assert torch.equal(*losses)


def test_cache_is_rebuilt_only_when_a_source_changes(mapped):
    load_scene(mapped, CPU)
    done = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24" / "done.json"
    built_at = done.stat().st_mtime_ns
    load_scene(mapped, CPU)
    assert done.stat().st_mtime_ns == built_at
    disparity = Path(mapped.datadir) / "disp" / "00003.npy"
    np.save(disparity, 2.0 * np.load(disparity))
    scene = load_scene(mapped, CPU)
    np.testing.assert_array_equal(scene.disparity[3], np.load(disparity))


def test_full_disk_names_the_size_and_the_option(mapped, monkeypatch):
    def disk_is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsff.data.frame_store.os.posix_fallocate", disk_is_full)
    with pytest.raises(InputError, match=r"No space left on device.*GB are needed; .*--cache_gb 0\.1"):
        load_scene(mapped, CPU)


PRINT_PEAK_MB = """
import resource, sys
from pathlib import Path
import numpy as np
from nsff.data.frame_store import FrameCache
n = int(sys.argv[2])
cache = FrameCache(Path(sys.argv[1]), n, 0.0, [])
values = cache.fill({"a": lambda row: np.full((1 << 20,), row, np.float32)})["a"]
for step in range(3 * n):
    assert float(values[step % n].sum()) == float(step % n) * (1 << 20)
    if step % 8 == 0:
        cache.release_pages()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_mapped_cache_peak_memory_does_not_grow_with_frames(tmp_path):
    """At 4 MB per frame, each read three times, 100 frames take at most 50 MB more memory than 20."""
    peaks = []
    for n_frames in (20, 100):
        command = [sys.executable, "-c", PRINT_PEAK_MB, str(tmp_path / str(n_frames)), str(n_frames)]
        folder = Path(__file__).resolve().parents[2] / "nsff_exp"
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        peaks.append(float(out.stdout))
    assert peaks[1] < peaks[0] + 50.0


def test_rows_below_the_limit_stay_in_memory(tmp_path):
    cache = FrameCache(tmp_path / "unused", 3, 1.0, [])
    values = cache.fill({"a": lambda row: np.full((2, 2), row)})["a"]
    assert values[:, 0, 0].tolist() == [0, 1, 2]
    assert not (tmp_path / "unused").exists()
