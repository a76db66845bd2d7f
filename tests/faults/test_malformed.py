"""Hostile and broken input: one clear line each, nothing executed, nothing written outside, no memory blown up."""

import io
import json
import pickle
import random
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import diagnose
import evaluation
import numpy as np
import prepare_video
import pytest
import render
import run_flows_video
import run_midas
import run_nerf
import save_poses_nerf
import torch
from nsff.errors import InputError

pytestmark = pytest.mark.slow

MEMORY = 6e9  # bytes of address space beyond what is in use: a bomb that goes off does not fit


class Trap:
    """Pickles to code that leaves a marker when it is loaded in good faith."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it has this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def npy(array: np.ndarray | None, shape: tuple[int, ...] | None = None) -> bytes:
    """An .npy file; `shape`: what its header says instead."""
    file = io.BytesIO()
    np.save(file, np.zeros(1, np.float32) if array is None else array, allow_pickle=True)
    content = file.getvalue()
    if shape is None:
        return content
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue() + b"\0" * 64


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def anything(content: bytes, marker: Path) -> dict[str, bytes | None]:
    """Damage that can happen to any file; None: it is gone."""
    chance = random.Random(5)
    half = bytearray(content)
    for _ in range(20):
        half[chance.randrange(len(half) // 2, len(half))] ^= 255
    return {
        "gone": None, "empty": b"", "cut in half": content[: len(content) // 2], "cut short": content[:-3],
        "first bytes": content[:10], "random": chance.randbytes(5000), "text": b"hello\n", "page": b"<html>404</html>",
        "pickle": pickle.dumps(Trap(marker)), "zip": zipped({"../../outside.txt": b"x", "data.pkl": b"x"}),
        "zeros": bytes(len(content)), "second half flipped": bytes(half),
    }  # fmt: skip


PICTURE = {
    "absurd size": png(100_000, 100_000), "absurd bomb": png(30_000, 30_000, bytes(20_000_000)), "no pixels": png(0, 0),
    "one pixel": png(1, 1, b"\0\0\0\0"),
}  # fmt: skip
ARRAY = {
    "pickled": npy(np.array([{"a": 1}], dtype=object)), "absurd shape": npy(None, (1 << 20, 1 << 20)),
    "negative shape": npy(None, (-5, 3)), "text inside": npy(np.array(["a", "b"])), "number": npy(np.float32(3)),
    "not a number": npy(np.full((12, 17), np.nan)), "complex": npy(np.full((36, 64), 1j)),
}  # fmt: skip
ARRAYS = {
    "other names": zipped({"a.npy": npy(np.zeros(3))}), "pickled inside": zipped({"flow.npy": ARRAY["pickled"]}),
    "bomb": zipped({"flow.npy": npy(None, (1 << 15, 1 << 15, 2)) + bytes(200_000_000), "mask.npy": npy(np.zeros(3))}),
    "climbs out": zipped({"../flow.npy": npy(np.zeros((36, 64, 2))), "mask.npy": npy(np.zeros((36, 64)))}),
}  # fmt: skip


def cases(content: bytes, name: str, marker: Path) -> dict[str, bytes | None]:
    more = {".png": PICTURE, ".jpg": PICTURE, ".npy": ARRAY, ".npz": ARRAYS}.get(Path(name).suffix, {})
    return anything(content, marker) | more


TINY = [
    "--netwidth",
    "16",
    "--N_samples",
    "8",
    "--N_rand",
    "16",
    "--num_extra_sample",
    "4",
    "--N_iters",
    "1",
    "--i_img",
    "0",
    "--device",
    "cpu",
]
SCENE_FILES = {
    "images_64x36/00003.png": run_nerf, "disp/00003.npy": run_nerf, "flow_i1/00003_fwd.npz": run_nerf,
    "flow_i1/00004_bwd.npz": run_nerf, "motion_masks/00003.png": run_nerf, "poses_bounds.npy": run_nerf,
    "mv_images/00000/cam02.jpg": evaluation, "mv_masks/00000/cam02.png": evaluation,
}  # fmt: skip
counted: list[str] = []


@pytest.fixture(autouse=True)
def bounded_memory():
    """Address space, so that a bomb gives a MemoryError here instead of a machine that swaps."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(MEMORY), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refuse(name: str, main: Callable[[list[str]], object], argv: list[str], may_work: bool = False) -> None:
    """One line; or, if the file is no worse than another good one, nothing."""
    counted.append(name)
    try:
        main(argv)
    except InputError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    else:
        if not may_work:
            raise AssertionError(f"{name} was taken")
        return
    if "\n" in said or not 10 < len(said) < 700:
        raise AssertionError(f"{name}: {said}")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def replace(path: Path, content: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("name", SCENE_FILES)
def test_files_of_a_scene(golden, trained, tmp_path, name):
    inside, marker = tmp_path / "inside", tmp_path / "executed"
    scene = inside / "scene"
    shutil.copytree(golden / "scene", scene)
    content, script = (scene / name).read_bytes(), SCENE_FILES[name]
    for number, (case, broken) in enumerate(cases(content, name, marker).items()):
        replace(scene / name, broken)
        argv = ["--config", trained.config, "--datadir", str(scene), *TINY, "--basedir", str(inside / f"logs{number}")]
        if script is evaluation:
            argv = ["--config", trained.config, "--datadir", str(scene), "--basedir", trained.basedir, "--every", "400"]
        harmless = case in ("second half flipped", "one pixel", "number") or (case == "cut short" and "png" in name)
        refuse(f"{name}: {case}", script.main, argv, harmless)
        assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}
    (scene / name).unlink(missing_ok=True)
    (scene / name).mkdir()
    refuse(f"{name}: a folder", script.main, argv)


def test_checkpoints(golden, trained, tmp_path):
    inside, marker = tmp_path / "inside", tmp_path / "executed"
    content = (golden / "render/002000.tar").read_bytes()
    contents = {
        "a list": [1, 2], "other keys": {"a": 1}, "no weights": EMPTY, "step is text": EMPTY | {"global_step": "x"},
        "step is a tensor of many": EMPTY | {"global_step": torch.zeros(3)},
        "weights are text": EMPTY | {"network_rigid": {"a": "b"}}, "no seconds": EMPTY | {"seconds": "x"},
    }  # fmt: skip
    more = {name: torch_file(value) for name, value in contents.items()}
    for number, (case, broken) in enumerate((anything(content, marker) | more).items()):
        folder = inside / f"logs{number}" / trained.experiment_dir.name
        folder.mkdir(parents=True)
        if broken is None:
            continue
        (folder / "000007.tar").write_bytes(broken)
        argv = [
            "--config",
            trained.config,
            "--datadir",
            trained.datadir,
            "--basedir",
            str(folder.parent),
            "--N_iters",
            "1",
        ]
        for script in (run_nerf, render, diagnose):
            refuse(f"checkpoint: {case}", script.main, [*argv, *(["--render_bt"] if script is render else [])])
        assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}


EMPTY = {"global_step": 7, "network_fn_state_dict": {}, "network_rigid": {}}


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_texts(trained, tmp_path):
    """Configs, camera files and key points."""
    inside, marker = tmp_path / "inside", tmp_path / "executed"
    inside.mkdir()
    config = Path(trained.config).read_bytes()
    values = {"no value": b"N_rand =\n", "twice": b"N_rand = 4\nN_rand = x\n", "code": b"N_rand = __import__('os')\n",
              "huge": b"N_rand = 1e999\n", "below": b"N_rand = -4\n", "unknown": b"N_rnd = 4\n", "latin": b"\xff\xfe\n",
              "nan": b"w_depth = nan\n", "long": b"expname = " + b"a" * 100_000}  # fmt: skip
    for case, broken in (anything(config, marker) | values).items():
        replace(inside / "config.txt", broken)
        argv = ["--config", str(inside / "config.txt"), "--datadir", trained.datadir, "--basedir", str(inside / "logs")]
        refuse(f"config: {case}", run_nerf.main, [*argv, *TINY], may_work=case == "cut short")
    path = {"camera_type": "perspective", "render_height": 36, "render_width": 64, "camera_path": []}
    pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    cameras = {
        "no cameras": path, "a list": [path], "number": 3, "size": path | {"render_height": 10**9},
        "text size": path | {"render_height": "a"}, "camera is text": path | {"camera_path": ["a"]},
        "short pose": path | {"camera_path": [{"camera_to_world": pose[:5], "fov": 50}]},
        "nan": path | {"camera_path": [{"camera_to_world": [float("nan")] * 16, "fov": 50}]},
        "text pose": path | {"camera_path": [{"camera_to_world": ["a"] * 16, "fov": 50}]},
        "angle": path | {"camera_path": [{"camera_to_world": pose, "fov": 400}]},
        "deep": json.loads("[" * 500 + "]" * 500),
    }  # fmt: skip
    texts = {name: json.dumps(value).encode() for name, value in cameras.items()}
    for case, broken in (anything(json.dumps(path).encode(), marker) | texts | {"deeper": b"[" * 100_000}).items():
        replace(inside / "cameras.json", broken)
        argv = ["--config", trained.config, "--datadir", trained.datadir, "--basedir", trained.basedir]
        refuse(f"camera path: {case}", render.main, [*argv, "--camera_path", str(inside / "cameras.json")])
    assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}


@pytest.mark.parametrize("name", ["poses_bounds.npy", "images/00002.png"])
def test_files_that_the_preparation_reads(golden, tmp_path, name):
    inside, marker = tmp_path / "inside", tmp_path / "executed"
    scene = inside / "scene" / "dense"
    shutil.copytree(golden / "scene", scene)
    content = (scene / name).read_bytes()
    scripts = {"images/00002.png": [run_midas], "poses_bounds.npy": [run_midas, run_flows_video]}
    for case, broken in cases(content, name, marker).items():
        replace(scene / name, broken)
        argv = ["--data_path", str(scene)]
        for script in scripts[name]:
            more = ["--depth", "multiview"] if script is run_midas else ["--flow", "dis"]
            harmless = case in ("second half flipped", "cut short", "gone")
            refuse(f"{name}: {case}", script.main, [*argv, *more, "--resize_height", "36"], harmless)
        assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}


def test_videos_models_and_masks(golden, tmp_path, clip):
    inside, marker = tmp_path / "inside", tmp_path / "executed"
    inside.mkdir()
    for number, (case, broken) in enumerate(anything(clip.read_bytes(), marker).items()):
        replace(inside / "clip.mp4", broken)
        argv = [
            "--video",
            str(inside / "clip.mp4"),
            "--data_path",
            str(inside / f"scene{number}"),
            "--resize_height",
            "36",
        ]
        if case not in ("cut short", "second half flipped", "cut in half"):  # may hold frames enough for an hour of SfM
            refuse(f"video: {case}", prepare_video.main, argv)
    dense = inside / "model" / "dense"
    shutil.copytree(golden / "scene/images", dense / "images")
    (dense / "sparse").mkdir()
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        for case, broken in anything(struct.pack("<Q", 1) + bytes(200), marker).items():
            for other in ("cameras.bin", "images.bin", "points3D.bin"):
                (dense / "sparse" / other).write_bytes(struct.pack("<Q", 1) + bytes(200))
            replace(dense / "sparse" / name, broken)
            refuse(f"{name}: {case}", save_poses_nerf.main, ["--data_path", str(dense)])
    assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "hi"', "new\nline", "\u00e4\u4e2d\U0001f600", "-dash", "$HOME;ls", "100%d"]
)
def test_names(golden, trained, tmp_path, name):
    """Odd names of folders are names like any other."""
    scene = tmp_path / "inside" / name / "scene"
    shutil.copytree(golden / "scene", scene)
    logs = tmp_path / "inside" / name / "logs"
    run_nerf.main(["--config", trained.config, f"--datadir={scene}", f"--basedir={logs}", *TINY])
    assert (logs / trained.experiment_dir.name / "000001.tar").is_file()
    refuse(f"name {name!r}", run_nerf.main, ["--config", f"{scene}/no.txt"])
    (scene / "disp" / "00003.npy").unlink()
    counted.append(name)
    with pytest.raises(InputError):
        run_nerf.main(["--config", trained.config, f"--datadir={scene}", f"--basedir={logs}2", *TINY])
    assert {path.split("/")[0] for path in tree(tmp_path)} == {"inside"}


def test_there_were_two_hundred():
    """Runs last: all tests of this file together."""
    assert len(counted) >= 200
    print(f"{len(counted)} malformed inputs")
