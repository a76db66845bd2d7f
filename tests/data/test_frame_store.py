"""Frames and priors in memory-mapped files: equal values, built once, bounded memory."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.frame_store import FrameCache
from nsff.data.scene import cache_limit_gb, load_scene
from nsff.errors import InputError, UsageError
from nsff.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def mapped(golden, paper_config, tmp_path):
    shutil.copytree(golden / "scene", tmp_path / "scene")
    return dataclasses.replace(paper_config, datadir=str(tmp_path / "scene"), cache_gb="0")


def test_mapped_scene_equals_scene_in_memory(mapped, paper_scene):
    scene = load_scene(mapped, CPU)
    for field in dataclasses.fields(scene):
        if isinstance(value := getattr(scene, field.name), torch.Tensor):
            assert torch.equal(value, getattr(paper_scene, field.name)), field.name
    scene.release_pages()
    assert torch.equal(scene.images, paper_scene.images)
    folder = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24"
    assert (folder / "images.npy").stat().st_size == 128 + paper_scene.images.numel()


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


def test_maps_are_written_where_the_system_cannot_allocate(mapped, paper_scene, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr("os.posix_fallocate")
    monkeypatch.setattr("nsff.data.frame_store.CHUNK_BYTES", 1000)
    assert torch.equal(load_scene(mapped, CPU).images, paper_scene.images)
    images = Path(mapped.datadir) / f".cache_{mapped.final_height}_F00-24" / "images.npy"
    assert images.stat().st_blocks * 512 >= images.stat().st_size


def test_full_disk_names_the_size_and_the_option(mapped, monkeypatch):
    def disk_is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsff.data.frame_store.os.posix_fallocate", disk_is_full)
    with pytest.raises(InputError, match=r"No space left on device.*GB are needed; .*--cache_gb 0\.1"):
        load_scene(mapped, CPU)


def test_frames_are_exactly_those_of_their_files(paper_scene, golden):
    path = golden / "scene/images_64x36/00005.png"
    pixels = torch.from_numpy(iio.imread(path)[..., :3])
    assert torch.equal(paper_scene.images[5], pixels)
    assert torch.equal(paper_scene.image(5), pixels.float() / 255.0)
    index = 5 * paper_scene.n_pixels + torch.arange(paper_scene.n_pixels)
    assert torch.equal(paper_scene.colours(index), paper_scene.image(5).view(-1, 3))


def test_half_precision_of_flow_is_far_below_a_pixel(paper_scene):
    """As on CUDA; flow of the golden scene, and the longest that is rounded by 1/64 of a pixel."""
    half = dataclasses.replace(paper_scene, flow_fwd=paper_scene.flow_fwd.half(), flow_bwd=paper_scene.flow_bwd.half())
    index = torch.arange(paper_scene.images[..., 0].numel())
    for direction in ("forward", "backward"):
        flow = half.flow(index, direction)
        assert flow.dtype == torch.float32
        torch.testing.assert_close(flow, paper_scene.flow(index, direction), rtol=0.0, atol=0.005)
    longest = torch.linspace(32.0, 64.0, 10_001)
    assert float((longest.half().float() - longest).abs().max()) <= 1 / 64


def test_limit_of_memory_follows_the_device(paper_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80e9, 85e9))
    assert paper_config.cache_gb == "auto"
    assert cache_limit_gb(paper_config, CPU) == 1.0
    assert cache_limit_gb(paper_config, torch.device("cuda", 0)) == 20.0
    assert cache_limit_gb(dataclasses.replace(paper_config, cache_gb="2.5"), torch.device("cuda", 0)) == 2.5


@pytest.mark.parametrize("value", ["-1", "much", "nan", "inf"])
def test_cache_gb_must_be_a_size(value):
    with pytest.raises(UsageError, match=f"cache_gb = {value} is not supported"):
        load_config(["--expname", "x", "--use_viewdirs", f"--cache_gb={value}"])


PRINT_PEAK_MB = """
import resource, sys
from pathlib import Path
import numpy as np
from nsff.config_loader import load_config
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
