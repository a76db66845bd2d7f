"""Full disks and locked folders: one error line, no partial files, and a second run that succeeds."""

from types import SimpleNamespace

import pytest
from disk import file_size_limit, list_files
from filelock import FileLock
from script_runs import error_of, run_main
from toy_frames import write_frames, write_frames_of_two_sizes


@pytest.mark.parametrize(
    ("arguments", "max_bytes"),
    [
        (("save_poses_nerf.py",), 500),
        (("run_midas.py", "--depth", "multiview", "--resize_height", "36"), 8_000),
        (("run_flows_video.py", "--flow", "dis", "--input_flow_w", "128"), 10_000),
    ],
)
def test_full_disk_leaves_no_partial_file_and_second_run_succeeds(arguments, max_bytes, scene):
    before = list_files(scene)
    with file_size_limit(max_bytes):
        error = error_of(*arguments, "--data_path", scene)
    assert "cannot write" in error
    assert not [path for path in list_files(scene) if "partial" in path.name]
    assert before <= list_files(scene)
    assert all(path.read_bytes() for path in list_files(scene))  # none is empty
    run_main(*arguments, "--data_path", scene)


def test_full_disk_while_frames_are_written_leaves_no_file(tmp_path):
    write_frames(tmp_path / "in")
    with file_size_limit(20_000):
        error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "cannot write" in error
    assert list_files(tmp_path / "scene") == set()


def test_run_colmap_without_room_for_database_is_refused(tmp_path, monkeypatch):
    write_frames(tmp_path / "in")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "needs 7 MB of disk, 1 MB are free" in error
    assert not list((tmp_path / "scene").glob(".partial*"))


def test_second_run_on_locked_scene_is_refused(tmp_path):
    write_frames_of_two_sizes(tmp_path / "in")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / ".partial-of-first-run").mkdir()
    with FileLock(tmp_path / "scene" / ".lock"):
        error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "another run is making the cameras" in error
    assert (tmp_path / "scene" / ".partial-of-first-run").is_dir()
