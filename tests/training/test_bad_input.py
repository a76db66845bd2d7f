"""Bad input gets one clear line that says what, where and what to run, a non-zero exit, and no half-written file."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import run_nerf
import torch
from nsff.cli import run_script
from nsff.data.scene import load_scene
from PIL import Image

SMALL = ["--N_rand", "16", "--num_extra_sample", "4", "--N_samples", "6", "--netwidth", "16"]


@pytest.fixture
def scene(golden: Path, tmp_path: Path) -> Path:
    for name in ("images", "images_64x36", "disp", "flow_i1", "motion_masks"):
        shutil.copytree(golden / "scene" / name, tmp_path / "dense" / name)
    shutil.copy(golden / "scene/poses_bounds.npy", tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def run(scene: Path, golden: Path, tmp_path: Path, monkeypatch, capsys):
    """Call run_nerf.py in-process; returns (exit status, error lines)."""

    def call(*more: str) -> tuple[int, list[str]]:
        argv = [
            "--config",
            str(golden / "paper/config.txt"),
            "--datadir",
            str(scene),
            "--basedir",
            str(tmp_path / "logs"),
        ]
        monkeypatch.setattr(sys, "argv", ["run_nerf.py", *argv, "--N_iters", "2", *SMALL, *more])
        with pytest.raises(SystemExit) as stopped:
            run_script(run_nerf.main)
        lines = capsys.readouterr().err.strip().split("\n")
        return int(stopped.value.code), [line for line in lines if line.startswith("error:")]

    return call


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_flow(scene: Path) -> None:
    (scene / "flow_i1/00007_fwd.npz").unlink()


def cut_png(scene: Path) -> None:
    cut(scene / "images_64x36/00003.png")


def cut_npz(scene: Path) -> None:
    cut(scene / "flow_i1/00004_bwd.npz")


def other_size(scene: Path) -> None:
    shutil.copy(scene / "images/00005.png", scene / "images_64x36/00005.png")


def nan_pose(scene: Path) -> None:
    rows = np.load(scene / "poses_bounds.npy")
    rows[6, 3] = np.nan
    np.save(scene / "poses_bounds.npy", rows)


def too_few_poses(scene: Path) -> None:
    np.save(scene / "poses_bounds.npy", np.load(scene / "poses_bounds.npy")[:20])


def flow_of_other_size(scene: Path) -> None:
    np.savez(scene / "flow_i1/00002_fwd.npz", flow=np.zeros((9, 16, 2), np.float32), mask=np.ones((9, 16), bool))


def nan_disparity(scene: Path) -> None:
    np.save(scene / "disp/00001.npy", np.full((36, 64), np.nan, np.float32))


def pickled_disparity(scene: Path) -> None:
    np.save(scene / "disp/00001.npy", np.array([{}], dtype=object))


def no_frames(scene: Path) -> None:
    shutil.rmtree(scene / "images_64x36")


def no_poses(scene: Path) -> None:
    (scene / "poses_bounds.npy").unlink()


def no_masks(scene: Path) -> None:
    shutil.rmtree(scene / "motion_masks")


@pytest.mark.parametrize(
    ("damage", "named", "remedy"),
    [
        (missing_flow, "flow_i1/00007_fwd.npz is missing", "run_flows_video.py --data_path"),
        (cut_png, "images_64x36/00003.png cannot be read, it may be cut off", "again"),
        (cut_npz, "flow_i1/00004_bwd.npz cannot be read, it may be cut off", "run_flows_video.py"),
        (other_size, "images_64x36/00005.png is 128x72, 00000.png is 64x36", "run_midas.py"),
        (nan_pose, "poses_bounds.npy: row 6 has NaN", "save_poses_nerf.py --data_path"),
        (too_few_poses, "poses_bounds.npy has 20 poses", "save_poses_nerf.py"),
        (
            flow_of_other_size,
            "flow_i1/00002_fwd.npz has flow of shape (9, 16, 2)",
            "run_flows_video.py",
        ),
        (nan_disparity, "disp/00001.npy must be (H, W) without NaN", "run_midas.py"),
        (pickled_disparity, "disp/00001.npy cannot be read", "run_midas.py"),
        (no_frames, "has 0 folders images_<W>x36", "run_midas.py"),
        (no_poses, "poses_bounds.npy is missing", "save_poses_nerf.py"),
        (no_masks, "motion_masks/00000.png is missing", "run_flows_video.py"),
    ],
)
def test_damaged_scene(scene, run, tmp_path, damage, named, remedy):
    damage(scene)
    status, errors = run()
    assert status == 1
    assert len(errors) == 1
    assert named in errors[0]
    assert remedy in errors[0]
    assert not (tmp_path / "logs").exists()


def test_unknown_option_is_a_usage_error(run):
    status, errors = run("--N_sampels", "5")
    assert status == 2
    assert "did you mean 'N_samples'" in errors[0]


def test_empty_motion_mask_is_legal(scene, run, tmp_path):
    for path in (scene / "motion_masks").iterdir():
        Image.new("L", (64, 36)).save(path)
    assert run() == (0, [])
    assert (tmp_path / "logs/golden_F00-24/000002.tar").is_file()


def test_render_without_a_checkpoint_names_the_folder_and_the_experiments_there(run, tmp_path):
    status, errors = run("--render_bt")
    assert status == 1
    assert str(tmp_path / "logs/golden_F00-24") in errors[0]
    assert "run_nerf.py" in errors[0]
    for name in ("kid_F00-30/000100.tar", "other_F00-24/360000.tar", "empty_F00-24/args.txt"):
        (tmp_path / "logs" / name).parent.mkdir(parents=True)
        (tmp_path / "logs" / name).touch()
    status, errors = run("--render_bt")
    assert (status, len(errors)) == (1, 1)
    assert "kid_F00-30, other_F00-24 have some" in errors[0]
    assert "--expname" in errors[0]


def test_a_run_of_another_variant_is_not_continued(run, tmp_path):
    """Both have the published name of the experiment."""
    assert run()[0] == 0
    status, errors = run("--variant", "wild", "--N_iters", "3")
    assert status == 1
    assert "000002.tar was trained as variant paper, wild is asked for; choose another --expname" in errors[0]
    folder = tmp_path / "logs/golden_F00-24"
    assert run("--variant", "wild", "--expname", "b", "--N_iters", "3", "--ft_path", str(folder / "000002.tar"))[0] == 0


def rename(folder: Path, name: str) -> None:
    """Every file of a folder under a name of its own: `f7-x.png` for frame 7."""
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(f"{name}{int(path.stem)}-x{path.suffix}"))


def test_files_of_other_names_are_taken_in_natural_order(scene, run, paper_scene, paper_config):
    """As published, where there are as many as frames."""
    for name in ("images_64x36", "disp", "motion_masks"):
        rename(scene / name, "f")
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    for name in ("images", "disparity", "motion_masks"):
        assert torch.equal(getattr(changed, name), getattr(paper_scene, name)), name
    assert run() == (0, [])
    (scene / "disp/f3-x.npy").unlink()
    assert "disp/00000.npy is missing; run run_midas.py" in run()[1][0]


def test_names_by_frame_and_others_are_not_mixed(scene, run):
    """As many files as frames, but which of them is frame 5?"""
    (scene / "disp/00005.npy").rename(scene / "disp/five.npy")
    assert "disp/00005.npy is missing" in run()[1][0]


def test_a_gap_is_not_closed_by_a_file_beyond_the_sequence(scene, run):
    """As many files as frames, numbered: the one that is missing is missing."""
    (scene / "disp/00005.npy").rename(scene / "disp/00024.npy")
    assert "disp/00005.npy is missing; run run_midas.py" in run()[1][0]


def test_files_named_as_the_images_have_their_order(scene, paper_scene, paper_config):
    """f10 comes before f2 in the list of images, and so in every folder."""
    order = sorted(f"f{index}" for index in range(24))
    for name in ("images", "images_64x36", "disp", "motion_masks"):
        for path in sorted((scene / name).iterdir()):
            path.rename(path.with_name(f"{order[int(path.stem)]}{path.suffix}"))
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    for name in ("images", "disparity", "motion_masks"):
        assert torch.equal(getattr(changed, name), getattr(paper_scene, name)), name


def test_numbers_may_begin_at_one(scene, paper_scene, paper_config):
    for path in sorted((scene / "disp").iterdir(), reverse=True):
        path.rename(path.with_name(f"{int(path.stem) + 1:05d}.npy"))
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    assert torch.equal(changed.disparity, paper_scene.disparity)


def test_frames_that_are_not_used_need_no_files(scene, run):
    for name in ("images_64x36/00020.png", "disp/00020.npy", "motion_masks/00020.png"):
        (scene / name).unlink()
    assert run("--end_frame", "12") == (0, [])


def test_a_sequence_of_another_length_is_not_continued(scene, run, tmp_path):
    """The time of a frame is relative to its length."""
    assert run("--end_frame", "50")[0] == 0
    np.save(scene / "poses_bounds.npy", np.load(scene / "poses_bounds.npy")[:16])
    for path in sorted((scene / "images").iterdir())[16:]:
        path.unlink()
    for more in (["--N_iters", "3"], ["--render_bt"]):
        status, errors = run("--end_frame", "50", *more)
        assert status == 1
        assert "000002.tar was trained on 24 frames, 16 are in use" in errors[0]


def test_masks_count_from_the_first_grey_level(scene, paper_config):
    """As published: whatever is not black moves."""
    grey = np.zeros((36, 64), np.uint8)
    grey[4, 5], grey[6, 7] = 1, 255
    Image.fromarray(grey).save(scene / "motion_masks/00002.png")
    mask = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu")).motion_masks[2]
    assert mask.nonzero().tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("mode", ["--render_bt", "--render_lockcam_slowmo", "--render_slowmo_bt"])
def test_target_outside_the_sequence(run, mode):
    status, errors = run(mode, "--target_idx", "24")
    assert status == 1
    assert "target_idx = 24 is outside the sequence: choose 0 to 23" in errors[0]


def test_unwritable_output(run, tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    status, errors = run()
    assert status == 1
    assert "--basedir" in errors[0]


def test_checkpoint_of_another_width_is_refused(run, tmp_path):
    assert run()[0] == 0
    status, errors = run("--netwidth", "32", "--N_iters", "3")
    assert status == 1
    assert "000002.tar has field mlp, netdepth 8, netwidth 16" in errors[0]
    assert "netwidth 32" in errors[0]
    assert sorted(p.name for p in (tmp_path / "logs/golden_F00-24").glob("*.tar")) == ["000002.tar"]


def test_cut_checkpoint_falls_back_to_the_one_before(run, tmp_path, caplog):
    assert run("--i_weights", "1")[0] == 0
    folder = tmp_path / "logs/golden_F00-24"
    cut(folder / "000002.tar")
    assert run("--N_iters", "4")[0] == 0
    assert "000002.tar cannot be read, it may be cut off" in caplog.text
    assert "resumed from" in caplog.text
    assert "000001.tar" in caplog.text
    assert not list(folder.glob("*.partial"))


def test_nothing_in_a_checkpoint_is_executed(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    folder = tmp_path / "logs/golden_F00-24"
    folder.mkdir(parents=True)
    torch.save({"global_step": 5, "network_fn_state_dict": Evil(), "network_rigid": {}}, folder / "000005.tar")
    status, errors = run()
    assert status == 1
    assert "none of the 1 checkpoints" in errors[0]
    assert not (tmp_path / "executed").exists()
