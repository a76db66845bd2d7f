"""Options: published config files and names, defaults of the variants, errors, and the message options."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import run_nerf
from nsff.config_loader import REPOSITORY, find_config, format_args, load_config
from nsff.errors import UsageError
from nsff.idle_options import idle_options
from nsff.rendering.ray_sampling import DepthSampling
from nsff.training.schedules import learning_rate

PUBLISHED = ["balloon1-2", "balloon2-2", "broom", "curls", "dynamicFace-2", "jumping", "kid-running", "playground",
             "skating-2", "truck2", "umbrella"]  # fmt: skip

ONLY_LATER = ("broom", "curls")  # scenes that only the authors' later code has
REQUIRED = ["--expname", "x", "--use_viewdirs"]


@pytest.mark.parametrize("folder", ["configs", "configs/wild"])
@pytest.mark.parametrize("scene", PUBLISHED)
def test_published_configs_have_published_values(scene, folder):
    """Values of the authors' configs, from their paper branch (configs) and their newest code (configs/wild)."""
    config = load_config(["--config", f"{folder}/config_{scene}.txt"])
    assert (config.N_rand, config.N_samples, config.netwidth, config.num_extra_sample) == (1024, 128, 256, 512)
    assert config.datadir == f"./data/{scene.replace('truck2', 'truck-2')}/dense"
    assert (config.w_sm, config.w_cycle, config.w_prob_reg) == (0.1, 1.0, 0.1)
    wild = folder.endswith("wild") or scene in ONLY_LATER
    frames = {"kid-running": (30, 30), "broom": (196, 150), "curls": (56, 60)}.get(scene, (24, 25))
    if scene == "jumping" and wild:
        frames = (24, 48)
    assert (config.end_frame, config.decay_iteration) == frames
    assert config.variant == ("wild" if wild else "paper")
    assert config.w_sf_reg == (0.1 if wild and scene not in ("dynamicFace-2", "jumping") else 0.01)
    halved = wild and scene in ("balloon1-2", "balloon2-2", "playground")
    assert (config.w_depth, config.w_optical_flow) == ((0.02, 0.01) if halved else (0.04, 0.02))
    decay = 500 if scene in ONLY_LATER else 300
    assert (config.N_iters, config.lrate_decay) == ((2_000_000, decay) if wild else (500_000, 250))


@pytest.mark.parametrize("folder", ["configs", "configs/wild"])
@pytest.mark.parametrize(
    ("scene", "experiment"),
    [
        ("kid-running", "kid-running_ndc_5f_sv_of_sm_unify3_F00-30"),
        ("balloon1-2", "balloon1-2_ndc_5f_sv_of_unify3_F00-24"),
        ("balloon2-2", "balloon2-2_ndc_5f_sv_of_unify3_F00-24"),
        ("dynamicFace-2", "dynamicFace-2_ndc_5f_sv_of_unify3_F00-24"),
        ("jumping", "jumping_ndc_5f_sv_of_unify3_F00-24"),
        ("playground", "playground_ndc_5f_sv_of_unify3_F00-24"),
        ("skating-2", "Skating2_ndc_5f_sv_of_unify3_F00-24"),
        ("truck2", "truck-2_ndc_5f_sv_of_unify3_F00-24"),
        ("umbrella", "umbrella_ndc_5f_sv_of_unify3_F00-24"),
        ("broom", "broom_ndc_5f_unify_F00-196"),
        ("curls", "curls_ndc_5f_unify_F00-56"),
    ],
)
def test_experiment_dir_has_published_name(scene, experiment, folder):
    """With these names, the authors' archives unpacked under logs/ are found."""
    config = load_config(["--config", f"{folder}/config_{scene}.txt"])
    assert config.experiment_dir == Path("logs") / experiment


@pytest.mark.parametrize(
    ("lines", "variant"),
    [
        ("chain_sf = True", "wild"), ("w_entropy = 1e-3", "wild"), ("chain_sf = False", "wild"), ("", "paper"),
        ("chain_sf = True\nvariant = paper", "paper"), ("w_entropy = 1e-3\nvariant = wild", "wild"),
    ],
)  # fmt: skip
def test_config_file_with_later_options_implies_variant_wild(tmp_path, caplog, lines, variant):
    file = tmp_path / "c.txt"
    file.write_text(f"expname = a\nuse_viewdirs = True\n{lines}\n")
    with caplog.at_level("INFO", logger="nsff"):
        config = load_config(["--config", str(file)])
    assert config.variant == variant
    assert (config.N_iters, config.i_print) == ((2_000_000, 1000) if variant == "wild" else (500_000, 500))
    assert ("taken as variant wild" in caplog.text) == (variant == "wild" and "variant" not in lines)


@pytest.mark.parametrize(
    ("typed", "variant"),
    [
        (["--chain"], "wild"), (["--w_ent", "0.1"], "wild"), (["--chain_sf", "--varian", "paper"], "paper"),
        (["--chain_sf", "--variant=paper"], "paper"), (["--basedir", "chain_sf"], "paper"),
    ],
)  # fmt: skip
def test_command_line_with_later_options_implies_variant_wild(typed, variant):
    config = load_config([*REQUIRED, *typed])
    assert (config.variant, config.N_iters) == (variant, 2_000_000 if variant == "wild" else 500_000)
    assert config.w_entropy == (0.1 if "--w_ent" in typed else 1e-3)


def test_args_txt_loads_as_the_same_config(tmp_path):
    argv = ["--config", "configs/config_kid-running.txt", "--path", "spiral", "--w_depth", "0.25", "--ft_path", "None"]
    config = load_config(argv)
    (tmp_path / "args.txt").write_text(format_args(config))
    reloaded = load_config(["--config", str(tmp_path / "args.txt")])
    assert dataclasses.replace(reloaded, config=config.config) == config
    assert (config.ft_path, config.path, config.camera_path) == (None, "spiral", None)


def test_args_txt_of_published_archive_loads(tmp_path):
    """Its `expname` includes the frame range, and some options are of the authors' earliest code only."""
    lines = """basedir = ./logs\nconfig = configs/config_kid-running.txt\nend_frame = 30\nft_path = None
        expname = kid-running_ndc_5f_sv_of_sm_unify3_F00-30\nndc_depth = False\nrender_dynamics_slowmo = False
        render_paths = False\nstart_frame = 0\nuse_viewdirs = True\nw_sf_reg = 0.1"""
    (tmp_path / "args.txt").write_text("\n".join(line.strip() for line in lines.splitlines()))
    config = load_config(["--config", str(tmp_path / "args.txt")])
    assert config.experiment_dir == Path("logs/kid-running_ndc_5f_sv_of_sm_unify3_F00-30")
    assert (config.variant, config.ft_path, config.w_sf_reg) == ("paper", None, 0.1)


def test_end_frame_beyond_sequence_is_cut_and_logged(golden, caplog):
    """The folder keeps the frame range of the options, as published."""
    with caplog.at_level("INFO", logger="nsff"):
        config = load_config([*REQUIRED, "--datadir", str(golden / "scene"), "--end_frame", "50", "--start_frame", "2"])
    assert (config.n_frames, config.frame_range) == (22, range(2, 24))
    assert config.experiment_dir.name == "x_F02-50"
    assert "scene has 24 frames: end_frame 50 is cut" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="nsff"):
        load_config([*REQUIRED, "--datadir", str(golden / "scene"), "--end_frame", "20"])
    assert "scene has 24 frames, those after frame 19 are not used; see --end_frame" in caplog.text
    with pytest.raises(UsageError, match="leave 2 frames of the 24"):
        load_config([*REQUIRED, "--datadir", str(golden / "scene"), "--start_frame", "22"])


def test_options_are_abbreviated_on_command_line_only(tmp_path):
    config = load_config([*REQUIRED, "--render_lock", "--target", "8", "--conf", "configs/config_umbrella.txt"])
    assert (config.render_lockcam_slowmo, config.target_idx, config.end_frame) == (True, 8, 24)
    with pytest.raises(UsageError, match="ambiguous option: --render could match --render_bt"):
        load_config([*REQUIRED, "--render"])
    (tmp_path / "c.txt").write_text("expname = a\nw_ent = 3\n")
    with pytest.raises(UsageError, match="unknown option 'w_ent'"):
        load_config(["--config", str(tmp_path / "c.txt")])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.txt")), ids=lambda path: path.stem)
def test_shipped_config_is_complete_without_unused_options(path):
    config = load_config(["--config", str(path)])
    assert config.expname
    assert "/dense" in config.datadir
    assert idle_options(config) == []


def test_defaults_follow_variant():
    paper, wild = (load_config([*REQUIRED, "--variant", variant]) for variant in ("paper", "wild"))
    assert (paper.end_frame, wild.end_frame) == (30, 50)
    assert load_config([*REQUIRED, "--variant", "wild", "--end_frame", "7"]).end_frame == 7


def test_command_line_overrides_config_file(tmp_path):
    file = tmp_path / "c.txt"
    file.write_text("expname = a\nN_rand = 5\nuse_viewdirs = True\nuse_motion_mask = True\n# remark\n")
    config = load_config(["--config", str(file), "--N_rand", "6"])
    assert (config.N_rand, config.use_motion_mask, config.experiment_dir.name) == (6, True, "a_F00-30")


def test_config_file_of_an_editor_that_marks_byte_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfexpname = gr\xc3\xbcn\r\nN_samples = 9\r\nuse_viewdirs = True\r\n")
    config = load_config(["--config", str(tmp_path / "a.txt")])
    assert (config.expname, config.N_samples) == ("gr\u00fcn", 9)


def test_find_config_searches_repository_root_and_names_both_paths(tmp_path, monkeypatch):
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
        ("lindisp = True", "lindisp is not supported in NDC"),
        ("no_ndc = True\nviewer_every = 100", "viewer_every needs NDC"),
        ("N_rand = many", "invalid int value"),
        ("variant = tame", "invalid choice"),
        ("netwidth = 33", "must be even"),
        ("netdepth = 4", "netdepth = 4 is not supported"),
        ("end_frame = 2", "at least 3 are needed"),
        ("hash_levels = 64", "hash_levels = 64 is not supported: choose 1 to 32"),
        ("N_samples = 2", r"N_samples = 2 is not supported \(the smoothness terms need .*choose at least 4"),
        ("w_sm = -1", "w_sm = -1.0 is not supported: choose at least 0"),
        ("w_sm = nan", "w_sm = nan is not supported"),
        ("fps = 0", "fps = 0.0 is not supported: choose at least 1"),
        ("warm_steps = many", "warm_steps = many is not supported: choose auto or a number"),
        ("use_viewdirs = False", "use_viewdirs is off: .*not supported; add use_viewdirs = True"),
    ],
)
def test_load_config_rejects_invalid_value_and_names_option(tmp_path, line, message):
    file = tmp_path / "c.txt"
    file.write_text(f"expname = a\n{line}\n")
    with pytest.raises(UsageError, match=message):
        load_config(["--config", str(file)])


def test_renamed_options_and_values_are_read_and_logged(tmp_path, caplog):
    (tmp_path / "c.txt").write_text("expname = a\nuse_viewdirs = True\nhash_look = 7\npath = wander\n")
    with caplog.at_level("INFO", logger="nsff"):
        config = load_config(["--config", str(tmp_path / "c.txt"), "--reach=5"])
    assert (config.hash_coarse_samples, config.path_radius, config.path) == (7, 5.0, "bullet_time_loop")
    assert "option hash_look is now called hash_coarse_samples" in caplog.text
    assert "option reach is now called path_radius" in caplog.text


def test_choices_of_an_optional_option_are_listed_without_none():
    assert load_config([*REQUIRED, "--path", "None"]).path is None  # as args.txt writes it
    with pytest.raises(UsageError, match=r"invalid choice: 'spirale' \(choose from .*'?train'?\); see --help"):
        load_config([*REQUIRED, "--path", "spirale"])


def test_idle_options_names_options_without_effect():
    config = load_config([*REQUIRED, "--no_batching", "--factor", "4"])
    assert idle_options(config) == ["factor"]
    paper = load_config([*REQUIRED, "--variant", "paper", "--chain_sf"])
    assert idle_options(paper) == ["chain_sf (always on in variant paper)"]
    assert "factor = 4\n" in format_args(config)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--field hash --netwidth 64 --N_samples 128", "netwidth (needs field mlp), N_samples (hash_samples takes"),
        ("--field hash --hash_coarse_samples 0 --N_samples 128", ""),
        ("--field hash --decay_iteration 7 --lrate_decay 3", "decay_iteration (needs schedule published), lrate_decay"),
        ("--field hash --schedule published --decay_iteration 7 --prior_samples 4", "prior_samples (needs field hash"),
        ("--hash_samples 32 --cuda_factor 2", "hash_samples (needs field hash), cuda_factor (needs"),
        ("--variant paper --w_entropy 1", "w_entropy (needs variant wild)"),
        ("--num_extra_sample 9", "num_extra_sample (needs use_motion_mask)"),
        ("--num_extra_sample 9 --use_motion_mask", ""),
        ("--no_ndc --force_ndc", "force_ndc (no_ndc wins)"),
    ],
)
def test_options_that_others_make_idle_are_named(caplog, options, named):
    with caplog.at_level("INFO", logger="nsff"):
        load_config([*REQUIRED, *options.split()])
    lines = [message for message in caplog.messages if message.startswith("without effect here")]
    assert len(lines) == bool(named)
    assert not named or f"without effect here: {named}" in lines[0]


def test_sizes_of_other_kinds_of_fields_may_stand_in_a_config(tmp_path, caplog):
    """As in configs that serve both kinds."""
    (tmp_path / "c.txt").write_text("expname = a\nuse_viewdirs = True\nfield = hash\nnetwidth = 96\nw_entropy = 0.1\n")
    with caplog.at_level("INFO", logger="nsff"):
        load_config(["--config", str(tmp_path / "c.txt"), "--variant", "paper"])
    assert "without effect here: w_entropy (needs variant wild)" in caplog.messages


def test_help_lists_option_groups_and_keeps_example_lines(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_nerf.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for group in ("scene:", "fields:", "training:", "losses:", "rendering:", "evaluation:"):
        assert group in text
    assert "\npython run_nerf.py --config configs/config_kid-running.txt --render_bt --target_idx 10\n" in text
    assert "first frame used (default: 0)" in " ".join(line.strip() for line in text.splitlines())


def test_message_options_select_output_of_a_script():
    """--quiet leaves warnings and errors, --verbose adds the traceback; no colours in a pipe."""
    script = (
        "import time\nfrom nsff.cli import log, progress_bar, run_script\nfrom nsff.errors import UsageError\n"
        "def main(argv):\n    log.info('progress'); log.warning('odd')\n"
        "    for _ in progress_bar(range(40), 'bar'): time.sleep(0.01)\n"
        "    raise UsageError('wrong')\nrun_script(main)\n"
    )
    output = {}
    for option in ("", "--quiet", "--quie", "--verbose"):
        command = [sys.executable, "-c", script, *([option] if option else [])]
        run = subprocess.run(command, cwd=REPOSITORY / "nsff_exp", capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout) == (2, "")
        output[option] = run.stderr
    assert output["--quiet"] == output["--quie"] == "warning: odd\nerror: wrong\n"
    assert "progress\n" in output[""]
    assert output[""].count("bar") == 2  # in a file, a bar is written at its start and its end
    assert "Traceback" not in output[""]
    assert "Traceback" in output["--verbose"]
    assert "\033" not in output["--verbose"]


def test_quiet_in_config_file_is_rejected(tmp_path):
    (tmp_path / "a.txt").write_text("expname = x\nquiet = True\n")
    with pytest.raises(UsageError, match=r"quiet in .*: it belongs on the command line"):
        load_config(["--config", str(tmp_path / "a.txt")])


def test_option_defaults_depend_on_the_field():
    mlp, hash_ = (load_config(["--expname", "x", "--use_viewdirs", "--field", kind]) for kind in ("mlp", "hash"))
    assert (mlp.schedule, mlp.N_iters, mlp.importance) == ("published", 500_000, False)
    assert (hash_.schedule, hash_.N_iters, hash_.importance) == ("scaled", 30_000, True)
    assert DepthSampling.of(mlp) == DepthSampling(64, 0, 1.0)
    assert learning_rate(hash_, 0) == pytest.approx(10 * learning_rate(mlp, 0))


@pytest.mark.parametrize("option", ["--hash_levels=0", "--hash_finest=8", "--hash_log2_rows=40", "--hash_samples=2"])
def test_cli_rejects_invalid_grid_sizes(option):
    with pytest.raises(UsageError, match=f"{option[2:].split('=')[0]} = .* is not supported: choose"):
        load_config(["--expname", "x", "--use_viewdirs", "--field", "hash", option])
