"""Reads the options from a file and the command line, and refuses what cannot be followed."""

import argparse
import dataclasses
import difflib
import logging
from pathlib import Path
from typing import Any

import configargparse

from nsff.options import FIELD_DEFAULTS, VARIANT_DEFAULTS, Config

__all__ = [
    "Config",
    "InputError",
    "Parser",
    "UsageError",
    "find_config",
    "format_args",
    "load_config",
    "unused_options",
]

log = logging.getLogger("nsff")

REPOSITORY = Path(__file__).resolve().parents[2]


class InputError(Exception):
    """What the user gave cannot be used; the message says what, where, and what to run. Exit status 1."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # a file may be called so; it is one line nevertheless


class UsageError(InputError):
    """The command line or the config file is wrong. Exit status 2."""


class Parser(configargparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def _build_parser(prog: str, description: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage="%(prog)s --config FILE [--option value ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_config_file_help=False,
    )
    names = dict.fromkeys(option.metadata["group"] for option in dataclasses.fields(Config))
    groups = {name: parser.add_argument_group(name) for name in names}
    for option in dataclasses.fields(Config):
        group = groups[option.metadata["group"]]
        shown = option.type is not bool and option.default not in (None, "")
        text = option.metadata["help"] + (f" (default: {option.default})" if shown else "")
        if option.type is bool:
            group.add_argument(f"--{option.name}", action="store_true", help=text)
        else:
            kind = str if option.type in (str, str | None) else float if option.type in (float, float | None) else int
            group.add_argument(
                f"--{option.name}", type=kind, default=option.default, choices=option.metadata.get("choices"), help=text
            )
    add_message_options(parser)
    return parser


def add_message_options(parser: Parser) -> None:
    """`--quiet` and `--verbose`, which the script heard before anything was read (`script.set_up_messages`)."""
    messages = parser.add_argument_group("messages")
    messages.add_argument("--quiet", action="store_true", help="no progress, only warnings, errors and results")
    messages.add_argument("--verbose", action="store_true", help="more lines, and where an error came from")


def find_config(typed: str) -> Path:
    """The config file `typed`: as it stands, else under the repository root.

    Raises:
        UsageError: in neither place; both absolute paths are named.
    """
    places = [Path(typed).absolute(), REPOSITORY / typed]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(f"config file not found: looked for {places[0]} and {places[1]}")


def load_config(argv: list[str], prog: str = "run_nerf.py", description: str = "") -> Config:
    """Read the command line and the file it names; the command line wins.

    Args:
        argv: arguments without the program's name.
        prog: name in the help.
        description: first line of the help.

    Raises:
        UsageError: unknown key, value of the wrong kind, or a value that is not supported.
    """
    parser = _build_parser(prog, description)
    only_config = Parser(add_help=False, allow_abbrev=False)
    only_config.add_argument("--config", "-c", default=None)
    typed, rest = only_config.parse_known_args(argv)
    path = find_config(typed.config) if typed.config else None
    try:
        text = path.read_text() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path} cannot be read as text") from error
    values, unknown = parser.parse_known_args(rest, config_file_contents=text, env_vars={})
    if unknown:
        raise UsageError(_describe_unknown(unknown[0], path))
    fields = vars(values) | {"config": str(path or "")}
    for name in ("quiet", "verbose"):
        if fields.pop(name) and f"--{name}" not in argv:
            raise UsageError(f"{name} in {path}: it belongs on the command line")
    for name, default in (VARIANT_DEFAULTS[fields["variant"]] | FIELD_DEFAULTS[fields["field"]]).items():
        if fields[name] is None:
            fields[name] = default
    config = Config(**fields)
    _check(config)
    if unused := unused_options(config):
        log.info("without effect here: %s", ", ".join(unused))
    return config


def _describe_unknown(argument: str, path: Path | None) -> str:
    key = argument.lstrip("-").split("=")[0]
    near = difflib.get_close_matches(key, [option.name for option in dataclasses.fields(Config)], 1)
    where = f"on the command line or in {path}" if path else "on the command line"
    return f"unknown option '{key}' {where}" + (f"; did you mean '{near[0]}'?" if near else "; see --help")


def _check(config: Config) -> None:
    for option in dataclasses.fields(Config):
        value = getattr(config, option.name)
        if option.metadata.get("fixed") and value != option.default:
            raise UsageError(f"{option.name} = {value} is not supported ({option.metadata['help']}); leave it out")
        if isinstance(value, int | float) and not value >= 0:
            raise UsageError(f"{option.name} = {value} must be a number that is not negative")
    positive = (
        "N_rand",
        "N_samples",
        "final_height",
        "decay_iteration",
        "lrate_decay",
        "i_print",
        "i_weights",
        "fps",
        "reach",
        "slowmo_factor",
    )
    for name in positive:
        if getattr(config, name) < 1:
            raise UsageError(f"{name} must be at least 1")
    if not config.expname:
        raise UsageError("expname is missing: give --config FILE or --expname NAME")
    if config.bd_factor < 0.05:
        raise UsageError(f"bd_factor = {config.bd_factor} is not supported: the near plane needs 0.05 or more")
    if config.N_samples < 4:
        raise UsageError("N_samples must be at least 4: the smoothness terms need neighbours along the ray")
    _check_hash(config)
    if config.netdepth < 6:
        raise UsageError(
            f"netdepth = {config.netdepth} is not supported: layer 5 takes the encoded point again; use >= 6"
        )
    if config.netwidth < 2 or config.netwidth % 2:
        raise UsageError(f"netwidth = {config.netwidth} must be even")
    if config.n_frames < 3:
        raise UsageError(
            f"start_frame {config.start_frame} and end_frame {config.end_frame} leave {config.n_frames} frames; "
            "at least 3 are needed"
        )


def _check_hash(config: Config) -> None:
    for name, least, most in (
        ("hash_levels", 1, 32), ("hash_log2_rows", 4, 26), ("hash_features", 1, 8), ("hash_finest", 16, 1 << 16),
        ("hash_dynamic_finest", 16, 1 << 16), ("hash_time", 0.01, 16), ("hash_width", 1, 1024),
        ("hash_samples", 4, 4096),
    ):  # fmt: skip
        if not least <= getattr(config, name) <= most:
            raise UsageError(f"{name} = {getattr(config, name)} is not supported: choose {least} to {most}")


def unused_options(config: Config) -> list[str]:
    """Names of the options that were given and have no effect here, but for those that are always on."""
    given = [option for option in dataclasses.fields(Config) if getattr(config, option.name) != option.default]
    always_on = ("use_viewdirs", "no_batching")
    names = [option.name for option in given if option.metadata.get("unused") and option.name not in always_on]
    if config.variant == "paper" and config.chain_sf:
        names.append("chain_sf (always on in variant paper)")
    return names


def format_args(config: Config) -> str:
    """All options as `key = value` lines, sorted, as `args.txt` holds them."""
    return "".join(f"{key} = {value}\n" for key, value in sorted(dataclasses.asdict(config).items()))
