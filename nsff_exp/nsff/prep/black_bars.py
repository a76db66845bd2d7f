"""Black bars around the picture (letterbox, pillarbox), found over all frames together.

A bar is black, alike all over, and ends in a straight edge, beyond which most pixels are lit at some time. Dark parts
of a scene end in no such edge, and something shows in them.
"""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import UInt8

from nsff.prep.video_scan import Appearance

BLACK = 48  # Grey level of the brightest bars and of their noise.
# Grey levels by which the mean of SEGMENT pixels of a bar may differ from its level, over all frames and in one. Noise
# and compression reach 2 and 4, dark parts of a picture 10.
EVEN, EVEN_ONCE = 2.5, 4.5
SEGMENT = 32
ODD_SEGMENTS = 0.05  # Fraction of the stretches of all frames that may differ more: dirt.
LIT = 8  # Grey levels above the brightest pixel of a bar; the picture beside a bar reaches them.
MIN_LIT = 0.5  # Fraction of the pixels beside a bar that do.
STRAIGHT = 0.6  # Lit pixels beside a bar over those deeper in the picture; a skyline has far fewer at its top.
DEEP_ROWS = 24
EDGE_ROWS = 4  # Rows within which the picture must be lit.
BLENDED = 0.6  # Of the level of the following rows; a darker first row is a mixture of bar and picture, and is cut too.
MIN_BAR = 2  # Pixels.
SMOOTH_ROWS = 5  # Rows over which the noise of bars is averaged.
RINGING, MAX_RINGING = 16, 0.4  # Rows of a bar that compression fills with echoes of the picture, and their height.

DarkBorders = tuple[float, float, float, float]  # Fractions of the height (top, bottom) and of the width (left, right).


@dataclasses.dataclass(frozen=True)
class PictureBox:
    """The part of the frames inside black bars: rows top to bottom, columns left to right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, image: UInt8[np.ndarray, "h w ..."]) -> UInt8[np.ndarray, "h2 w2 ..."]:
        """Cut a frame to the picture."""
        return image[self.top : self.bottom, self.left : self.right]


def may_have_bars(appearance: Appearance, indices: list[int]) -> bool:
    """Whether an outermost row or column of the small pictures is dark in all frames."""
    rows, columns = appearance.rows[indices], appearance.columns[indices]
    return bool(min(rows[:, [0, -1]].max(axis=0).min(), columns[:, [0, -1]].max(axis=0).min()) <= BLACK)


def dark_borders(appearance: Appearance, indices: list[int]) -> DarkBorders:
    """Measure what is dark in all frames at most, along each border."""

    def extents(levels: UInt8[np.ndarray, "n side"]) -> tuple[float, float]:
        side = levels.shape[1]
        lit = np.flatnonzero(levels.max(axis=0) > BLACK)
        first, last = (int(lit[0]), int(lit[-1])) if len(lit) else (side, -1)
        return (first + 1) / side, (side - last) / side  # one more: a small row may be dark in part

    return (*extents(appearance.rows[indices]), *extents(appearance.columns[indices]))


def find_picture(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], dark: DarkBorders = (1.0, 1.0, 1.0, 1.0)
) -> PictureBox | None:
    """Find the picture inside black bars.

    Args:
        frames: some frames of the clip, of one size; all are held in memory.
        dark: what is dark in all frames of the clip, see `dark_borders`; no bar reaches further.

    Returns:
        The picture, with even sides; None if there are no bars.
    """
    levels = [frame.max(axis=-1) for frame in frames]
    if not levels:
        return None
    stack = np.stack(levels)
    height, width = stack.shape[1:]
    top, bottom = _bar(stack, dark[0]), _bar(stack[:, ::-1], dark[1])
    across = stack[:, top : height - bottom].transpose(0, 2, 1)
    left, right = _bar(across, dark[2]), _bar(across[:, ::-1], dark[3])
    if not any((top, bottom, left, right)):
        return None
    rows, columns = height - top - bottom, width - left - right
    if min(rows, columns) <= DEEP_ROWS:
        return None
    return PictureBox(top, top + rows // 2 * 2, left, left + columns // 2 * 2)


def _bar(levels: UInt8[np.ndarray, "n h w"], dark: float) -> int:
    """Number of rows of the bar at the top; 0 without one.

    Args:
        levels: brightest channel of each pixel.
        dark: fraction of the rows that may be a bar.
    """
    most = int(np.ceil(dark * levels.shape[1]))
    levels = levels[:, : most + RINGING + DEEP_ROWS]
    n_frames, n_rows, width = levels.shape
    n_segments = max(1, width // SEGMENT)
    segments = levels[:, :, : n_segments * min(SEGMENT, width)].reshape(n_frames, n_rows, n_segments, -1)
    means = np.stack([cv2.blur(frame.mean(axis=-1), (1, SMOOTH_ROWS)) for frame in segments])
    level = float(np.median(means[:, :MIN_BAR]))
    odd = (np.abs(means.mean(axis=0) - level) > EVEN).mean(axis=1) > ODD_SEGMENTS
    brightest = levels.max(axis=0)
    bright = np.percentile(brightest, 99.0, axis=1) > BLACK
    core = int(np.argmax(np.append(odd | bright, True)))
    lift = levels.mean(axis=(0, 2)) - level
    candidates = range(max(MIN_BAR, core - SMOOTH_ROWS), min(core + RINGING, n_rows - EDGE_ROWS))
    edge = max(candidates, key=lambda row: lift[row] - lift[row - 1], default=0)
    if edge < MIN_BAR or edge > most or core < MIN_BAR:
        return 0
    inside = float(np.median(lift[edge : edge + EDGE_ROWS]))
    if lift[core:edge].max(initial=0.0) > MAX_RINGING * inside:
        return 0
    if (np.abs(means[:, : min(core, edge)] - level) > EVEN_ONCE).mean() > ODD_SEGMENTS:
        return 0
    lit = levels[:, edge : edge + DEEP_ROWS] > float(np.percentile(brightest[: min(core, edge)], 99.5)) + LIT
    if lit[:, :EDGE_ROWS].any(axis=(0, 1)).mean() < MIN_LIT:
        return 0
    if lit[:, :EDGE_ROWS].mean() < STRAIGHT * lit[:, DEEP_ROWS // 2 :].mean():
        return 0
    while lift[edge] < BLENDED * inside:
        edge += 1
    return edge
