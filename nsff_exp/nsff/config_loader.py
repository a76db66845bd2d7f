"""Options from a config file and the command line: parsed, completed with defaults, and checked."""

import dataclasses
import difflib
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nsff.cli import Parser
from nsff.config import OPTIONS, Config
from nsff.errors import UsageError
from nsff.idle_options import idle_options, typed_options
from nsff.io import read_text

log = logging.getLogger("nsff")

RENAMED_OPTIONS = {"hash_look": "hash_coarse_samples", "reach": "path_radius"}  # former names, still accepted
RENAMED_PATHS = {"wander": "bullet_time_loop"}
# Defaults in which the two published commits differ; those of `paper` are the defaults of `Config`.
VARIANT_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "wild": {
        "N_iters": 2_000_000,
        "lrate_decay": 300,
        "w_sf_reg": 0.1,
        "end_frame": 50,
        "i_print": 1000,
        "i_img": 1000,
    },
}
FIELD_DEFAULTS: dict[str, dict[str, Any]] = {"mlp": {}, "hash": {"schedule": "scaled", "N_iters": 30_000}}
REPOSITORY = Path(__file__).resolve().parents[2]


def _build_parser(prog: str, description: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage="%(prog)s --config FILE [--option value ...]",
        description=description,
    )
    names = dict.fromkeys(option.metadata["group"] for option in OPTIONS)
    groups = {name: parser.add_argument_group(name) for name in names}
    for option in OPTIONS:
        group = groups[option.metadata["group"]]
        has_default = option.type is not bool and option.default not in (None, "")
        text = option.metadata["help"] + (f" (default: {option.default})" if has_default else "")
        flags = [f"--{option.name}", *(["-c"] if option.name == "config" else [])]
        if option.type is bool:
            group.add_argument(*flags, action="store_true", help=text)
            continue
        choices, convert = option.metadata.get("choices"), _converter(option)
        if choices:
            group.add_argument(
                *flags, type=convert, default=option.default, help=text, metavar="{" + ",".join(choices) + "}",
                choices=_Choices(choices),
            )  # fmt: skip
        else:
            group.add_argument(*flags, type=convert, default=option.default, help=text)
    return parser


class _Choices(tuple):
    """Choices of an option; None, as `args.txt` writes an optional one that is not set, is accepted and not listed."""

    def __contains__(self, value: object) -> bool:
        return value is None or super().__contains__(value)


def _converter(option: dataclasses.Field) -> Callable[[str], Any]:
    """Converter from text to the type of an option. Optional ones accept `None`, as `args.txt` writes them."""
    kind: type = int if option.type is int else float if option.type in (float, float | None) else str

    def convert(text: str) -> Any:
        if option.name == "path":
            text = RENAMED_PATHS.get(text, text)
        return None if option.type in (str | None, float | None) and text == "None" else kind(text)

    convert.__name__ = kind.__name__  # argparse names it in its message
    return convert


def _is_size(text: str) -> bool:
    """Whether a text is a number, 0 or more."""
    try:
        return 0.0 <= float(text) < math.inf
    except ValueError:
        return False


def find_config(name: str) -> Path:
    """Find a config file: as typed, else under the repository root.

    Raises:
        UsageError: neither exists; both absolute paths are named.
    """
    candidates = [Path(name).absolute(), REPOSITORY / name]
    for path in candidates:
        if path.is_file():
            return path
    raise UsageError(f"config file not found: looked for {candidates[0]} and {candidates[1]}")


def load_config(argv: list[str], prog: str = "run_nerf.py", description: str = "") -> Config:
    """Load the command line and the config file that it names; the command line wins.

    Args:
        argv: the command line, without the program's name.
        prog: name of the script, for its help.
        description: text at the top of the help.

    Raises:
        UsageError: an unknown option, or a value that is of the wrong type or not supported.
    """
    parser = _build_parser(prog, description)
    argv = [_current_name(word, "--") for word in argv]
    command_line, unknown = parser.parse_known_args(argv, config_file_contents="", env_vars={})
    path = find_config(command_line.config) if command_line.config else None
    try:
        text = read_text(path) if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path} cannot be read as text") from error
    text = "\n".join(_current_name(line) for line in text.splitlines())

    def parse() -> dict[str, Any]:
        return vars(parser.parse_known_args(argv, config_file_contents=text, env_vars={})[0])

    parser.set_defaults(variant=None, w_entropy=None)
    values = parse()  # with these defaults, to tell which variant is meant; parsed again with those of that variant
    file_keys = _keys_of_file(parser)
    if unknown := [key for key, is_option in file_keys.items() if not is_option] + unknown:
        raise UsageError(_describe_unknown(unknown[0], path))
    for name in ("quiet", "verbose"):
        if name in file_keys:
            raise UsageError(f"{name} in {path}: it belongs on the command line")
    wild_options = [
        name for name in ("chain_sf", "w_entropy") if name in file_keys or values[name] not in (None, False)
    ]
    variant = values["variant"] or _infer_variant(wild_options)
    defaults = {"w_entropy": Config.w_entropy} | VARIANT_DEFAULTS[variant] | FIELD_DEFAULTS[values["field"]]
    parser.set_defaults(variant=variant, **defaults)
    values = {name: value for name, value in parse().items() if name not in ("quiet", "verbose")}
    config = Config(**values | {"config": str(path or ""), "sequence_length": _sequence_length(values["datadir"])})
    _check(config)
    if config.n_frames < config.end_frame - config.start_frame:
        log.info("%s has %d frames: end_frame %d is cut", config.datadir, config.sequence_length, config.end_frame)
    elif config.sequence_length is not None and config.sequence_length > config.end_frame:
        last, length = config.end_frame - 1, config.sequence_length
        log.info("%s has %d frames, those after frame %d are not used; see --end_frame", config.datadir, length, last)
    if idle := idle_options(config, prog, typed_options(command_line)):
        log.info("without effect here: %s", ", ".join(idle))
    return config


def _current_name(text: str, dashes: str = "") -> str:
    """Replace an option's old name at the start of a word of the command line or a line of a config file."""
    match = re.match(rf"{dashes}(\w+)(?=\s*(=|$))", text)
    if match and match[1] in RENAMED_OPTIONS:
        log.info("option %s is now called %s", match[1], RENAMED_OPTIONS[match[1]])
        return dashes + RENAMED_OPTIONS[match[1]] + text[match.end() :]
    return text


def _keys_of_file(parser: Parser) -> dict[str, bool]:
    """Keys of the config file parsed last, each with whether it is the full name of an option."""
    sources = parser.get_source_to_settings_dict()
    return {
        key: action is not None
        for source, settings in sources.items() if source.startswith("config_file")
        for key, (action, _) in settings.items()
    }  # fmt: skip


def _infer_variant(wild_options: list[str]) -> str:
    """Infer the variant of a config that names none: `wild` if it sets options of the authors' later code."""
    if not wild_options:
        return Config.variant
    log.info("%s without variant: taken as variant wild, the authors' later code", " and ".join(wild_options))
    return "wild"


def _sequence_length(datadir: str) -> int | None:
    """Count the rows of `poses_bounds.npy`; None if it cannot be read, an error that loading the scene reports."""
    try:
        return int(np.load(Path(datadir) / "poses_bounds.npy", mmap_mode="r", allow_pickle=False).shape[0])
    except Exception:  # a broken file can raise anything
        return None


def _describe_unknown(argument: str, path: Path | None) -> str:
    key = argument.lstrip("-").split("=")[0][:80].encode("unicode_escape").decode()  # a broken file may hold anything
    near = difflib.get_close_matches(key, [option.name for option in OPTIONS], 1)
    where = f"on the command line or in {path}" if path else "on the command line"
    return f"unknown option '{key}' {where}" + (f"; did you mean '{near[0]}'?" if near else "; see --help")


def _check(config: Config) -> None:
    """Check that all values are supported.

    Raises:
        UsageError: one is not; the message names it and the values to choose from.
    """
    for option in OPTIONS:
        value = getattr(config, option.name)
        if option.metadata.get("fixed") and value != option.default:
            raise UsageError(f"{option.name} = {value} is not supported ({option.metadata['help']}); leave it out")
        if isinstance(value, int | float):
            _check_range(option, value)
    if config.warm_steps != "auto" and not config.warm_steps.isdecimal():
        raise UsageError(f"warm_steps = {config.warm_steps} is not supported: choose auto or a number, 0 for none")
    if config.cache_gb != "auto" and not _is_size(config.cache_gb):
        raise UsageError(f"cache_gb = {config.cache_gb} is not supported: choose auto or a number of GB, 0 or more")
    if not config.expname:
        raise UsageError("expname is missing: give --config FILE or --expname NAME")
    if config.netwidth % 2:
        raise UsageError(f"netwidth = {config.netwidth} must be even")
    if config.n_frames < 3:
        total = "" if config.sequence_length is None else f" of the {config.sequence_length} in {config.datadir}"
        raise UsageError(
            f"start_frame {config.start_frame} and end_frame {config.end_frame} leave {config.n_frames} frames{total}; "
            "at least 3 are needed"
        )
    if config.lindisp and not config.no_ndc:
        raise UsageError("lindisp is not supported in NDC, whose depth is already linear in disparity; leave it out")
    if config.no_ndc and config.viewer_every:
        raise UsageError("viewer_every needs NDC, whose layers are planes for every camera; leave it out with no_ndc")
    if not config.use_viewdirs:
        raise UsageError(
            "use_viewdirs is off: fields whose colour does not depend on the view direction are not supported; "
            "add use_viewdirs = True to the config, or --use_viewdirs"
        )


def _check_range(option: dataclasses.Field, value: float) -> None:
    least, most = option.metadata.get("least", 0), option.metadata.get("most", math.inf)
    if not least <= value <= most:  # NaN is outside of every range
        why = f" ({option.metadata['why']})" if "why" in option.metadata else ""
        choice = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise UsageError(f"{option.name} = {value} is not supported{why}: choose {choice}")


def format_args(config: Config) -> str:
    """Format all options but `gpus`, which belongs to a machine, as sorted `key = value` lines for `args.txt`."""
    names = sorted(option.name for option in OPTIONS if option.name != "gpus")
    return "".join(f"{name} = {getattr(config, name)}\n" for name in names)
