"""What all scripts share: one clear line and an exit status for errors, and the device."""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import torch

from nsff.config import Config, InputError, UsageError

log = logging.getLogger("nsff")


def pick_device(config: Config) -> torch.device:
    """The device of `--device`; `auto` is CUDA where there is one.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this torch; use --device cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":  # torchrun's processes on a machine have one each
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if config.amp and device.type == "cpu":
        log.info("without effect here: amp (CUDA only)")
    return device


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script: one clear line instead of a traceback for what the user can mend.

    Exits with 0 if all went well, 2 for a wrong command line, 1 for anything else.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes, one tells how it goes
    logging.getLogger("nsff").setLevel(logging.INFO if first else logging.ERROR)
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except torch.OutOfMemoryError:
        print(
            "error: the GPU has not enough memory; lower --N_rand (training) or --netchunk (rendering)", file=sys.stderr
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
