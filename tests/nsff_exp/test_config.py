"""Options: published files and names, the two variants, and clear refusals."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from nsff.config import REPOSITORY, UsageError, find_config, format_args, load_config, unused_options

PUBLISHED = ["balloon1-2", "balloon2-2", "broom", "curls", "dynamicFace-2", "jumping", "kid-running", "playground",
             "skating-2", "truck-2", "umbrella"]  # fmt: skip

# Each imports only from those before it.
MODULES = """options config script workers timeline poses trajectories camera_path cache scene views batches rays
sampling encoding fields compositing renderer losses schedules checkpoint splatting in_between clips page layers metrics
protocols report keypoints evaluator scoreboard validation progress journal lock trainer
novel_views diagnosis summary stages measure"""


@pytest.mark.parametrize("folder", ["configs", "configs/wild"])
@pytest.mark.parametrize("scene", PUBLISHED)
def test_published_configs(scene, folder):
    config = load_config(["--config", f"{folder}/config_{scene}.txt"])
    assert (config.N_rand, config.N_samples, config.netwidth, config.num_extra_sample) == (1024, 128, 256, 512)
    assert config.datadir == f"./data/{scene}/dense"
    assert (config.w_sm, config.w_cycle, config.w_prob_reg) == (0.1, 1.0, 0.1)
    frames = {"kid-running": (30, 30), "broom": (196, 150), "curls": (56, 60)}.get(scene, (24, 25))
    assert (config.end_frame, config.decay_iteration) == frames
    wild = folder.endswith("wild")
    assert config.variant == ("wild" if wild else "paper")
    assert config.w_sf_reg == (0.1 if wild and scene not in ("dynamicFace-2", "jumping") else 0.01)
    halved = wild and scene in ("balloon1-2", "balloon2-2", "playground")
    assert (config.w_depth, config.w_optical_flow) == ((0.02, 0.01) if halved else (0.04, 0.02))
    assert (config.N_iters, config.lrate_decay) == ((2_000_000, 300) if wild else (500_000, 250))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.txt")), ids=lambda path: path.stem)
def test_every_config_is_complete(path):
    config = load_config(["--config", str(path)])
    assert config.expname
    assert "/dense" in config.datadir
    assert unused_options(config) == []


def test_defaults_follow_the_variant():
    paper, wild = (load_config(["--expname", "x", "--variant", variant]) for variant in ("paper", "wild"))
    assert (paper.end_frame, wild.end_frame) == (30, 50)
    assert load_config(["--expname", "x", "--variant", "wild", "--end_frame", "7"]).end_frame == 7


def test_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "c.txt"
    file.write_text("expname = a\nN_rand = 5\nuse_motion_mask = True\n# remark\n")
    config = load_config(["--config", str(file), "--N_rand", "6"])
    assert (config.N_rand, config.use_motion_mask, config.experiment_dir.name) == (6, True, "a_F00-30")


def test_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/config_broom.txt") == REPOSITORY / "configs/config_broom.txt"
    with pytest.raises(UsageError) as error:
        find_config("configs/nowhere.txt")
    assert str(tmp_path / "configs/nowhere.txt") in str(error.value)
    assert str(REPOSITORY / "configs/nowhere.txt") in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("N_ran = 5", "unknown option 'N_ran' .*did you mean 'N_rand'"),
        ("N_importance = 64", "N_importance = 64 is not supported"),
        ("no_ndc = True", "no_ndc = True is not supported"),
        ("lindisp = True", "lindisp = True is not supported"),
        ("N_rand = many", "invalid int value"),
        ("variant = tame", "invalid choice"),
        ("netwidth = 33", "must be even"),
        ("netdepth = 4", "netdepth = 4 is not supported"),
        ("end_frame = 2", "at least 3 are needed"),
        ("w_sm = -1", "not negative"),
        ("w_sm = nan", "not negative"),
        ("fps = 0", "fps must be at least 1"),
    ],
)
def test_refusals_name_the_option(tmp_path, line, message):
    file = tmp_path / "c.txt"
    file.write_text(f"expname = a\n{line}\n")
    with pytest.raises(UsageError, match=message):
        load_config(["--config", str(file)])


def test_options_without_effect_are_named():
    config = load_config(["--expname", "x", "--no_batching", "--factor", "4"])
    assert unused_options(config) == ["factor"]
    assert unused_options(load_config(["--expname", "x", "--chain_sf"])) == ["chain_sf (always on in variant paper)"]
    assert "factor = 4\n" in format_args(config)


def test_no_module_imports_upward():
    order = MODULES.split()
    package = REPOSITORY / "nsff_exp/nsff"
    files = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    assert len(files) > 15
    for path in files:
        name = path.relative_to(package).parts[0].removesuffix(".py")
        for imported in imports_of(path):
            parts = imported.split(".")
            if parts[0] == "nsff" and parts[1] != name:
                assert order.index(parts[1]) < order.index(name), f"{path} imports {imported}, which is above it"


@pytest.mark.parametrize(("folder", "other"), [("nsff_exp", "nsff_prep"), ("nsff_scripts", "nsff")])
def test_the_packages_share_no_code(folder, other):
    files = list((REPOSITORY / folder).rglob("*.py"))
    assert files
    for path in files:
        assert other not in [imported.split(".")[0] for imported in imports_of(path)], path


def imports_of(path: Path) -> list[str]:
    import ast

    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_help_lists_every_group():
    out = subprocess.run(
        [sys.executable, "run_nerf.py", "--help"], cwd=REPOSITORY / "nsff_exp", capture_output=True, text=True
    )
    assert out.returncode == 0
    for group in ("scene:", "fields:", "training:", "losses:", "rendering:", "evaluation:"):
        assert group in out.stdout
    example = "python run_nerf.py --config configs/config_kid-running.txt --render_bt --target_idx 10\n"
    assert f"\n{example}" in out.stdout  # a command keeps its line
    shown = [line.strip() for line in out.stdout.splitlines()]
    assert "first frame used (default: 0)" in " ".join(shown)


@pytest.mark.parametrize("package", ["nsff", "nsff_prep"])
def test_how_much_is_said(package, tmp_path):
    """--quiet leaves the warning and the error, --verbose adds the traceback; no colours in a pipe."""
    stage = (
        f"import time\nfrom {package}.script import run_script, log\nfrom tqdm import tqdm\n"
        f"from {'nsff.config' if package == 'nsff' else 'nsff_prep.script'} import UsageError\n"
        "def main(argv):\n    log.info('told'); log.warning('odd')\n"
        "    for _ in tqdm(range(40), 'bar', disable=False): time.sleep(0.01)\n"
        "    raise UsageError('wrong')\nrun_script(main)\n"
    )
    folder = REPOSITORY / ("nsff_exp" if package == "nsff" else "nsff_scripts")
    said = {}
    for option in ("", "--quiet", "--verbose"):
        command = [sys.executable, "-c", stage, *([option] if option else [])]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout) == (2, "")
        said[option] = run.stderr
    assert said["--quiet"] == "warning: odd\nerror: wrong\n"
    assert "told\n" in said[""]
    assert said[""].count("bar") == 2  # a file is told of its beginning and its end
    assert "Traceback" not in said[""]
    assert "Traceback" in said["--verbose"]
    assert "\033" not in said["--verbose"]


def test_quiet_belongs_on_the_command_line(tmp_path):
    (tmp_path / "a.txt").write_text("expname = x\nquiet = True\n")
    with pytest.raises(UsageError, match=r"quiet in .*: it belongs on the command line"):
        load_config(["--config", str(tmp_path / "a.txt")])


def test_both_packages_speak_alike():
    """They share no code, by design; what is written twice is the same."""
    from nsff import script as ours
    from nsff_prep import script as theirs

    for name in ("LineFormatter", "coloured", "_silent", "_seldom"):
        assert inspect.getsource(getattr(ours, name)) == inspect.getsource(getattr(theirs, name)), name
