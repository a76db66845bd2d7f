"""Bad input ends in one error line with cause, file and remedy, a non-zero exit status, and no partial files."""

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
from nsff.errors import InputError
from nsff.scene_folder import frame_files
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
    """Run run_nerf.py in this process; returns (exit status, error lines)."""

    def call(*options: str) -> tuple[int, list[str]]:
        argv = ["--config", str(golden / "paper/config.txt"), "--datadir", str(scene)]
        argv += ["--basedir", str(tmp_path / "logs")]
        monkeypatch.setattr(sys, "argv", ["run_nerf.py", *argv, "--N_iters", "2", *SMALL, *options])
        with pytest.raises(SystemExit) as stopped:
            run_script(run_nerf.main)
        lines = capsys.readouterr().err.strip().split("\n")
        return int(stopped.value.code), [line for line in lines if line.startswith("error:")]

    return call


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_flow(scene: Path) -> None:
    (scene / "flow_i1/00007_fwd.npz").unlink()


def truncated_png(scene: Path) -> None:
    truncate(scene / "images_64x36/00003.png")


def truncated_npz(scene: Path) -> None:
    truncate(scene / "flow_i1/00004_bwd.npz")


def frame_of_other_size(scene: Path) -> None:
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
    ("damage", "cause", "remedy"),
    [
        (missing_flow, "flow_i1/00007_fwd.npz is missing", "run_flows_video.py --data_path"),
        (truncated_png, "images_64x36/00003.png cannot be read, it may be cut off", "again"),
        (truncated_npz, "flow_i1/00004_bwd.npz cannot be read, it may be cut off", "run_flows_video.py"),
        (frame_of_other_size, "images_64x36/00005.png is 128x72, 00000.png is 64x36", "run_midas.py"),
        (nan_pose, "poses_bounds.npy: row 6 has NaN", "save_poses_nerf.py --data_path"),
        (too_few_poses, "poses_bounds.npy has 20 poses", "save_poses_nerf.py"),
        (flow_of_other_size, "flow_i1/00002_fwd.npz has flow of shape (9, 16, 2)", "run_flows_video.py"),
        (nan_disparity, "disp/00001.npy must be (H, W) without NaN", "run_midas.py"),
        (pickled_disparity, "disp/00001.npy cannot be read", "run_midas.py"),
        (no_frames, "has 0 folders images_<W>x36", "run_midas.py"),
        (no_poses, "poses_bounds.npy is missing", "save_poses_nerf.py"),
        (no_masks, "motion_masks/00000.png is missing", "run_flows_video.py"),
    ],
)
def test_damaged_scene_gives_one_error_with_remedy(scene, run, tmp_path, damage, cause, remedy):
    damage(scene)
    status, errors = run()
    assert status == 1
    assert len(errors) == 1
    assert cause in errors[0]
    assert remedy in errors[0]
    assert not (tmp_path / "logs").exists()


def test_unknown_option_exits_with_usage_status(run):
    status, errors = run("--N_sampels", "5")
    assert status == 2
    assert "did you mean 'N_samples'" in errors[0]


def test_empty_motion_masks_train(scene, run, tmp_path):
    for path in (scene / "motion_masks").iterdir():
        Image.new("L", (64, 36)).save(path)
    assert run() == (0, [])
    assert (tmp_path / "logs/golden_F00-24/000002.tar").is_file()


def test_render_without_checkpoint_names_folder_and_other_experiments(run, tmp_path):
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


def test_resume_rejects_checkpoint_of_other_variant(run, tmp_path):
    """Both variants have the same published experiment name."""
    assert run()[0] == 0
    status, errors = run("--variant", "wild", "--N_iters", "3")
    assert status == 1
    assert "000002.tar was trained as variant paper, wild is asked for; choose another --expname" in errors[0]
    folder = tmp_path / "logs/golden_F00-24"
    assert run("--variant", "wild", "--expname", "b", "--N_iters", "3", "--ft_path", str(folder / "000002.tar"))[0] == 0


def test_the_folder_above_a_scene_is_told_from_it(scene, run, tmp_path):
    (tmp_path / "above").mkdir()
    (tmp_path / "above/dense").symlink_to(scene)
    status, errors = run("--datadir", str(tmp_path / "above"))
    assert (status, len(errors)) == (1, 1)
    assert f"{tmp_path / 'above'} is no scene folder, but {tmp_path / 'above/dense'} is: give that" in errors[0]


def rename_frames(folder: Path) -> None:
    """Rename the files of a folder, for instance 00007.png to f7-x.png."""
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(f"f{int(path.stem)}-x{path.suffix}"))


def test_files_of_other_names_are_read_in_natural_order(scene, run, paper_scene, paper_config):
    """As in the published code, if the number of files is that of the frames."""
    for name in ("images_64x36", "disp", "motion_masks"):
        rename_frames(scene / name)
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    for name in ("images", "disparity", "motion_masks"):
        assert torch.equal(getattr(changed, name), getattr(paper_scene, name)), name
    assert run() == (0, [])
    (scene / "disp/f3-x.npy").unlink()
    assert "disp/00000.npy is missing; run run_midas.py" in run()[1][0]


def test_all_frames_decide_whether_files_are_counted_from_one(tmp_path):
    """Frames 1 to 5 alone would find files of their numbers, those of the frames before them."""
    images, folder = [tmp_path / "images" / f"{index:05d}.png" for index in range(1, 7)], tmp_path / "disp"
    folder.mkdir()
    for index in range(1, 7):
        (folder / f"{index:05d}.npy").touch()

    def stems(names: list[Path], used: range) -> list[str]:
        return [path.stem for path in frame_files(folder, names, used, (".npy",), "make them")]

    assert stems(images, range(1, 4)) == ["00002", "00003", "00004"]
    others = [tmp_path / "images" / f"f{index}.png" for index in range(1, 7)]
    assert stems(others, range(1, 4)) == ["00002", "00003", "00004"]
    (folder / "00006.npy").unlink()
    with pytest.raises(InputError, match=r"frame 1 may be 00001 by its number or 00002 by the name of its image"):
        stems(images, range(1, 4))
    assert stems(others, range(1, 4)) == ["00001", "00002", "00003"]  # by number, as not all frames have a file
    with pytest.raises(InputError, match=r"00000.npy is missing; make them"):
        stems(others, range(6))


def test_numbered_and_other_names_mixed_are_rejected(scene, run):
    """The number of files is right, but frame 5 is ambiguous."""
    (scene / "disp/00005.npy").rename(scene / "disp/five.npy")
    assert "disp/00005.npy is missing" in run()[1][0]


def test_missing_number_is_not_filled_by_later_file(scene, run):
    """The number of files is right, but names that are numbers are frame numbers."""
    (scene / "disp/00005.npy").rename(scene / "disp/00024.npy")
    assert "disp/00005.npy is missing; run run_midas.py" in run()[1][0]


def test_files_named_like_images_follow_their_order(scene, paper_scene, paper_config):
    """f2 comes before f10 among the images, and so in every folder."""
    order = [f"f{index}" for index in range(24)]
    for name in ("images", "images_64x36", "disp", "motion_masks"):
        for path in sorted((scene / name).iterdir()):
            path.rename(path.with_name(f"{order[int(path.stem)]}{path.suffix}"))
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    for name in ("images", "disparity", "motion_masks"):
        assert torch.equal(getattr(changed, name), getattr(paper_scene, name)), name


def test_numbering_from_one_is_accepted(scene, paper_scene, paper_config):
    for path in sorted((scene / "disp").iterdir(), reverse=True):
        path.rename(path.with_name(f"{int(path.stem) + 1:05d}.npy"))
    changed = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu"))
    assert torch.equal(changed.disparity, paper_scene.disparity)


def test_frames_beyond_end_frame_need_no_files(scene, run):
    for name in ("images_64x36/00020.png", "disp/00020.npy", "motion_masks/00020.png"):
        (scene / name).unlink()
    assert run("--end_frame", "12") == (0, [])


def test_resume_and_render_reject_checkpoint_of_other_sequence_length(scene, run, tmp_path):
    """The time of a frame is relative to the length of the sequence."""
    assert run("--end_frame", "50")[0] == 0
    np.save(scene / "poses_bounds.npy", np.load(scene / "poses_bounds.npy")[:16])
    for path in sorted((scene / "images").iterdir())[16:]:
        path.unlink()
    for options in (["--N_iters", "3"], ["--render_bt"]):
        status, errors = run("--end_frame", "50", *options)
        assert status == 1
        assert "000002.tar was trained on 24 frames, 16 are in use" in errors[0]


def test_any_nonzero_grey_level_of_mask_counts_as_moving(scene, paper_config):
    """As in the published code."""
    grey = np.zeros((36, 64), np.uint8)
    grey[4, 5], grey[6, 7] = 1, 255
    Image.fromarray(grey).save(scene / "motion_masks/00002.png")
    mask = load_scene(dataclasses.replace(paper_config, datadir=str(scene)), torch.device("cpu")).motion_masks[2]
    assert mask.nonzero().tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("mode", ["--render_bt", "--render_lockcam_slowmo", "--render_slowmo_bt"])
def test_target_idx_outside_sequence_is_rejected(run, mode):
    status, errors = run(mode, "--target_idx", "24")
    assert status == 1
    assert "target_idx = 24 is outside the sequence: choose 0 to 23" in errors[0]


def test_unwritable_basedir_is_rejected(run, tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    status, errors = run()
    assert status == 1
    assert "--basedir" in errors[0]


def test_resume_rejects_checkpoint_of_other_architecture(run, tmp_path):
    assert run()[0] == 0
    status, errors = run("--netwidth", "32", "--N_iters", "3")
    assert status == 1
    assert "000002.tar has field mlp, netdepth 8, netwidth 16" in errors[0]
    assert "netwidth 32" in errors[0]
    assert sorted(p.name for p in (tmp_path / "logs/golden_F00-24").glob("*.tar")) == ["000002.tar"]


def test_truncated_checkpoint_falls_back_to_previous_one(run, tmp_path, caplog):
    assert run("--i_weights", "1")[0] == 0
    folder = tmp_path / "logs/golden_F00-24"
    truncate(folder / "000002.tar")
    assert run("--N_iters", "4")[0] == 0
    assert "000002.tar cannot be read, it may be cut off" in caplog.text
    assert "resumed from" in caplog.text
    assert "000001.tar" in caplog.text
    assert not list(folder.glob(".partial-*"))


def test_pickled_code_in_checkpoint_is_not_executed(run, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    folder = tmp_path / "logs/golden_F00-24"
    folder.mkdir(parents=True)
    torch.save({"global_step": 5, "network_fn_state_dict": Payload(), "network_rigid": {}}, folder / "000005.tar")
    status, errors = run()
    assert status == 1
    assert "none of the 1 checkpoints" in errors[0]
    assert not (tmp_path / "executed").exists()


def test_checkpoint_of_other_cameras_is_refused(scene, run, tmp_path):
    """Every ray would meet the fields where they never were trained."""
    assert run()[0] == 0
    for more in ((), ("--render_bt",), ("--ft_path", str(tmp_path / "logs/golden_F00-24/000002.tar"), "--render_bt")):
        status, errors = run("--bd_factor", "0.5", *more)
        assert (status, len(errors)) == (1, 1)
        assert "was trained with --bd_factor 0.9, the scale of its scene; 0.5 is asked for" in errors[0]
    poses = np.load(scene / "poses_bounds.npy")
    poses[3, 3] += 0.01
    np.save(scene / "poses_bounds.npy", poses)
    status, errors = run("--N_iters", "3")
    assert (status, len(errors)) == (1, 1)
    assert f"was trained with other cameras than those in {scene / 'poses_bounds.npy'}" in errors[0]
