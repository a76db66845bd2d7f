"""Detection of frames of two fields, taken one after the other: by what the decoder says, and by their combs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

MIN_FLAGGED = 0.1  # Of the frames; with more flagged as interlaced, the clip is.
# Fractions of the frames in which ffmpeg's `idet` finds fields of one order, of those it can tell and of all.
MIN_FIELDS, MIN_TOLD = 0.8, 0.3
# Mean difference of rows one apart over that of rows two apart. A picture has less than 1, a moving one of two fields
# more; `idet` alone takes fine progressive patterns for fields.
MIN_COMBING = 1.1


def flagged_order(flags: Sequence[str]) -> str:
    """Order of the fields that the decoder reports: "T" = top field first, "B" = bottom field first, "" = progressive.

    Args:
        flags: "T", "B" or "P" per frame.
    """
    top, bottom = flags.count("T"), flags.count("B")
    if top + bottom <= MIN_FLAGGED * len(flags):
        return ""
    return "T" if top >= bottom else "B"


def suspected_order(declared: str, fields: tuple[int, int, int], n_frames: int) -> str:
    """Order of the fields where the pictures look like two fields though no frame says so; to be confirmed by combs.

    Args:
        declared: order that the container declares, "" without one.
        fields: frames that look like top field first, bottom field first, progressive (ffmpeg's `idet`).
        n_frames: frames of the clip.
    """
    if declared:
        return declared
    found, told = max(fields[:2]), sum(fields)
    if found <= MIN_FIELDS * told or told <= MIN_TOLD * n_frames:
        return ""
    return "T" if fields[0] >= fields[1] else "B"


def combing(frames: Sequence[UInt8[np.ndarray, "h w"]]) -> float:
    """Difference of neighbouring rows over that of rows two apart, median over frames; 0 without frames."""
    ratios = []
    for frame in frames:
        rows = frame.astype(np.float32)
        near, far = np.abs(rows[1:] - rows[:-1]).mean(), np.abs(rows[2:] - rows[:-2]).mean()
        ratios.append(near / max(far, 1e-6))
    return float(np.median(ratios)) if ratios else 0.0
