"""Every command of the README and of docs/, as typed there, one after the other; with tiny settings behind it."""

import importlib
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from nsff.config_loader import load_config

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))}
FIELDS = (
    "--netwidth 16 --N_samples 8 --hash_log2_rows 8 --hash_levels 2 --hash_coarse_samples 8 --hash_samples 8 "
    "--hash_width 8 --device cpu"
)
TRAINING = "--N_iters 2 --N_rand 16 --num_extra_sample 8 --i_img 0"
TINY = {
    "run_nerf": f"{FIELDS} {TRAINING}", "render": f"{FIELDS} --render_factor 2",
    "evaluation": f"{FIELDS} --every 60 --lpips_trunk {{trunk}}", "diagnose": FIELDS, "make_page": FIELDS,
    "evaluate_all": f"{FIELDS} --every 90 --lpips_trunk {{trunk}}", "benchmark": f"{FIELDS} {TRAINING} --bench_steps 1",
    "export_viewer": f"{FIELDS} --planes 6 --render_factor 2 --times 9:10",
    "prepare_video": "--resize_height 72 --input_flow_w 256",
    "run_midas": "--depth multiview --resize_height 72",
    "run_flows_video": "--flow dis --input_flow_w 256 --resize_height 72",
}  # fmt: skip


LEAVES = {
    "prepare_video": "SCENE/dense/prepared.html", "run_colmap": "SCENE/dense/images/*.png",
    "save_poses_nerf": "SCENE/dense/poses_bounds.npy", "run_midas": "SCENE/dense/disp/*.npy",
    "run_flows_video": "SCENE/dense/flow_i1/*.npz", "run_nerf": "logs/*/*.tar", "render": "logs/*/render-*/*.mp4",
    "evaluation": "logs/*/metrics_*.json", "evaluate_all": "logs/results_*.md", "diagnose": "logs/*/health.html",
    "benchmark": "bench.json", "export_viewer": "logs/*/viewer.html",
}  # fmt: skip


def typed_commands() -> list[str]:
    """The lines of indented blocks that call Python, whole where they are broken, in order."""
    lines = "\n".join([README, *DOCS.values()]).replace(" \\\n", " ").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.startswith("    python ")))


@pytest.fixture(scope="module")
def world(tmp_path_factory, golden, prepared) -> Path:
    """A folder in which the README's names exist; the golden scene stands for each published one."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("kid-running", "balloon1", "balloon1-2"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "dense").symlink_to(golden / "scene")
    (folder / "DIR").mkdir()
    for frame in (0, 2, 4):
        shutil.copy(golden / f"scene/images_64x36/{frame:05d}.png", folder / "DIR")
    (folder / "configs").mkdir()
    shutil.copy(REPOSITORY / "configs/config_kid-running.txt", folder / "configs")
    (folder / "clip.mp4").symlink_to(prepared[0])
    shutil.copytree(prepared[1], folder / "SCENE")
    return folder


HEAVY = ("prepare_video", "run_colmap", "run_midas", "run_flows_video", "benchmark", "diagnose")


def _marked(line: str) -> object:
    heavy = line.split()[1].removesuffix(".py") in HEAVY
    return pytest.param(line, marks=[pytest.mark.nightly] if heavy else [])


@pytest.mark.parametrize("line", [_marked(line) for line in typed_commands()])
def test_command_runs_and_leaves_its_file(line: str, world: Path, monkeypatch, trunk_file) -> None:
    """Typed as in the text, with small settings behind it; those that take long run in make test-all."""
    monkeypatch.chdir(world)
    here = line.replace(" ... ", " configs/config_kid-running.txt ").replace("--gpus all", "--gpus 1")  # no GPU here
    here = here.replace("~/", "")  # which a shell replaces by the home folder
    _, script, *words = shlex.split(here, comments=True)
    words = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    name = script.removesuffix(".py")
    tiny = TINY.get(name, "").format(trunk=trunk_file)
    if name not in ("prepare_video", "run_colmap", "save_poses_nerf", "run_midas", "run_flows_video"):
        tiny += " --end_frame 12 --final_height 72" if "SCENE" in line else " --end_frame 24 --final_height 36"
    if "mine.json" in line:
        shutil.copy(next(world.glob("logs/kid-running*/render-*/camera_path.json")), "mine.json")
    if "slowmo" in line:
        tiny += " --slowmo_factor 2" + ("" if "--times" in line else " --times 9:11")
    if name == "benchmark":
        tiny += " --bench_json bench.json"
    argv = [*words, *shlex.split(tiny)]
    renders = name == "run_nerf" and "--render" in line
    first = ["--config", words[0], *argv[1:]] if name == "evaluate_all" else argv
    if (renders or name in ("evaluation", "evaluate_all", "diagnose", "render", "export_viewer")) and not list(
        load_config(first).experiment_dir.glob("*.tar")
    ):
        argv_of_training = [word for word in first if not word.startswith("--render_")]
        importlib.import_module("run_nerf").main([*argv_of_training, *shlex.split(TRAINING)])
    if name == "run_nerf" and not renders:
        for path in load_config(argv).experiment_dir.glob("*.tar"):
            path.unlink()  # of an earlier command: it would be finished
    begun = time.time_ns()
    importlib.import_module(name).main(argv)
    left = "logs/*/render-*/*.mp4" if renders else LEAVES[name]
    assert any(path.stat().st_mtime_ns >= begun - 5 * 10**7 for path in world.glob(left)), f"{line} left no new {left}"


def test_every_script_is_named_in_the_pages() -> None:
    """By its name; and what the README calls is there."""
    called = {line.split()[1] for line in typed_commands()}
    there = {path.name for folder in ("nsff_exp", "nsff_scripts") for path in (REPOSITORY / folder).glob("*.py")}
    assert len(typed_commands()) >= 20
    assert called <= there
    there.discard("_nsff_path.py")
    assert [script for script in there if script not in "".join([README, *DOCS.values()])] == []


@pytest.mark.parametrize("target", ["demo", "test", "video VIDEO=clip.mp4", "install"])
def test_make_targets_of_the_readme_exist(target: str) -> None:
    """Dry-run them: the scripts that they call exist."""
    run = subprocess.run(["make", "-n", *target.split()], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    scripts = [word for word in run.stdout.split() if word.endswith(".py")]
    assert all((REPOSITORY / script).is_file() for script in scripts)
    assert f"make {target}" in README


def test_options_table_names_existing_options() -> None:
    from nsff.config import Config

    table = DOCS["training.md"].partition("## Options")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    for name in (word for row in rows for word in row.replace("`", "").replace(",", " ").split()):
        assert hasattr(Config, name) or name in Config.__dataclass_fields__, name


def test_links_between_pages_have_targets() -> None:
    for name, text in (DOCS | {"README.md": README}).items():
        folder = REPOSITORY if name == "README.md" else REPOSITORY / "docs"
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).is_file(), f"{name} links to {target}"
    assert all(f"docs/{name}" in README for name in DOCS)
    assert len(README.splitlines()) < 200


def test_teaser_is_small_and_animated() -> None:
    """They are part of the repository, and move."""
    picture = REPOSITORY / "nsff_exp" / "demo.gif"
    assert picture.stat().st_size < 3e6
    frames = iio.imread(picture)
    assert len(frames) > 20
    assert np.abs(frames[0].astype(int) - frames[len(frames) // 2]).mean() > 2.0
