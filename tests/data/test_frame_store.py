"""Frames and priors in memory-mapped files: the same values, made once, and memory that does not grow."""

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


def test_a_mapped_scene_is_the_same(mapped, paper_scene):
    scene = load_scene(mapped, CPU)
    for field in dataclasses.fields(scene):
        if isinstance(value := getattr(scene, field.name), torch.Tensor):
            assert torch.equal(value, getattr(paper_scene, field.name)), field.name
    scene.forget()
    assert torch.equal(scene.images, paper_scene.images)
    folder = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24"
    assert (folder / "images.npy").stat().st_size == 128 + paper_scene.images.numel() * 4


def test_training_on_it_is_the_same_bit_for_bit(mapped, paper_scene):
    config = dataclasses.replace(mapped, netwidth=16, N_samples=8, N_rand=32, num_extra_sample=8, background_rays=16)
    trainers = [Trainer(config, scene, CPU) for scene in (load_scene(mapped, CPU), paper_scene)]
    for _ in range(3):
        losses = [trainer.train_step().loss for trainer in trainers]
        assert torch.equal(*losses)


def test_it_is_made_once_and_again_when_a_source_changed(mapped):
    load_scene(mapped, CPU)
    done = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24" / "done.json"
    made = done.stat().st_mtime_ns
    load_scene(mapped, CPU)
    assert done.stat().st_mtime_ns == made
    disparity = Path(mapped.datadir) / "disp" / "00003.npy"
    np.save(disparity, 2.0 * np.load(disparity))
    scene = load_scene(mapped, CPU)
    np.testing.assert_array_equal(scene.disparity[3], np.load(disparity))


def test_no_room_for_it(mapped, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsff.data.frame_store.os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left on device.*GB are needed; .*--cache_gb 0\.1"):
        load_scene(mapped, CPU)


MEASURE = """
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
        cache.forget()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    """4 MB a frame, all looked at three times: 100 frames take hardly more than 20."""
    peaks = []
    for n_frames in (20, 100):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / str(n_frames)), str(n_frames)]
        folder = Path(__file__).resolve().parents[2] / "nsff_exp"
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        peaks.append(float(out.stdout))
    assert peaks[1] < peaks[0] + 50.0


def test_rows_that_fit_stay_in_memory(tmp_path):
    cache = FrameCache(tmp_path / "unused", 3, 1.0, [])
    values = cache.fill({"a": lambda row: np.full((2, 2), row)})["a"]
    assert values[:, 0, 0].tolist() == [0, 1, 2]
    assert not (tmp_path / "unused").exists()
