"""Checks of what is given against each other: sizes of one aspect ratio, values that all frames have in common."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nsff.errors import InputError

log = logging.getLogger("nsff")

Size = tuple[float, float]  # (width, height), pixels

MAX_ASPECT_MISMATCH = 0.03  # Refuse aspect ratios that differ by more, relative to that of the reference.
ROUNDING_PIXELS = 1.0  # A width that is off by no more is rounding: small training sizes.
WARN_SPREAD, REFUSE_SPREAD = 0.03, 0.15  # Of a value that should be the same in all frames, relative to its least.


def check_aspect(
    what: str, size: Size, reference: str, reference_size: Size, remedy: str, rounding: float = ROUNDING_PIXELS
) -> None:
    """Check that two sizes have one aspect ratio: neither of the two is turned, cropped or of other frames.

    Args:
        what: name of what is checked, for the message.
        size: its size.
        reference: name of what it belongs to.
        reference_size: size of that.
        remedy: what to do or to run.
        rounding: pixels by which the width may be off because sizes were rounded.

    Raises:
        InputError: the aspect ratios differ; the message has both sizes.
    """
    (width, height), (reference_width, reference_height) = size, reference_size
    expected = height * reference_width / reference_height
    if abs(width - expected) <= max(MAX_ASPECT_MISMATCH * expected, rounding):
        return
    turned = abs(height - width * reference_width / reference_height) <= MAX_ASPECT_MISMATCH * height
    hint = " (turned, or width and height exchanged?)" if turned else ""
    raise InputError(
        f"{what} is {width:g}x{height:g}, {reference} is {reference_width:g}x{reference_height:g}: "
        f"their aspect ratios differ{hint}; {remedy}"
    )


def check_common(
    what: str, values: Sequence[float], names: Sequence[str], used: str, remedy: str, scale: float | None = None
) -> None:
    """Check that a value is the same in all frames: the method has one camera for all of them.

    Args:
        what: name of the value with its place, for the message.
        values: one per frame.
        names: of the frames.
        used: what is taken where they differ a little, for the warning.
        remedy: what to do or to run where they differ much.
        scale: what differences are relative to; None = the least value.

    Raises:
        InputError: the values differ by `REFUSE_SPREAD` or more; from `WARN_SPREAD` on there is a warning. Both name
            the least and the largest value and their frames.
    """
    least, most = min(values), max(values)
    spread = (most - least) / (least if scale is None else scale)
    if spread < WARN_SPREAD:
        return
    where = f"{least:.1f} ({names[values.index(least)]}) to {most:.1f} ({names[values.index(most)]}), {spread:.0%}"
    if spread >= REFUSE_SPREAD:
        raise InputError(f"{what} differs between the frames: {where}; one camera for all of them is needed: {remedy}")
    log.warning("%s differs between the frames: %s; %s", what, where, used)


def check_rows(path: Path, sizes_and_focals: Float[np.ndarray, "n 3"]) -> Size:
    """Check that all rows of `poses_bounds.npy` have one size and focal length.

    Args:
        path: of the file, for messages.
        sizes_and_focals: (height, width, focal length) of each row.

    Returns:
        The size of the first row: that row is used, as published.

    Raises:
        InputError: rows differ by `REFUSE_SPREAD` or more.
    """
    names = [f"row {row}" for row in range(len(sizes_and_focals))]
    for what, values in zip(("height", "width", "focal length"), sizes_and_focals.T, strict=True):
        remedy = "leave out the frames of another size or zoom"
        check_common(f"{path}: {what}", values.tolist(), names, "that of row 0 is used", remedy)
    return float(sizes_and_focals[0, 1]), float(sizes_and_focals[0, 0])
