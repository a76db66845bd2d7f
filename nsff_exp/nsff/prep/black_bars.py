"""Black bars around the picture (letterbox, pillarbox), found over all frames together.

A bar is black, alike all over, and ends in a straight edge, beyond which most pixels are lit at some time. Dark parts
of a scene end in no such edge, and something shows in them.
"""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nsff.prep.video_scan import Appearance

BLACK = 48  # Grey level of the brightest bars and of their noise.
EVEN = 2.5  # Grey levels by which the mean of a stretch of SEGMENT pixels of a bar may differ from that of the bar.
SEGMENT = 32
ODD_SEGMENTS = 0.05  # Fraction of stretches that may differ more: dirt.
LIT = 8  # Grey levels above the brightest pixel of a bar; the picture beside a bar reaches them.
MIN_LIT = 0.5  # Fraction of the pixels beside a bar that do.
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

    def extents(levels: Float[np.ndarray, "n side"]) -> tuple[float, float]:
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
        frames: some frames of the clip, of one size.
        dark: what is dark in all frames of the clip, see `dark_borders`; no bar reaches further.

    Returns:
        The picture, with even sides; None if there are no bars.
    """
    brightest, total, count = None, None, 0
    for frame in frames:
        level = frame.max(axis=-1)
        brightest = level if brightest is None else np.maximum(brightest, level)
        total = level.astype(np.float32) if total is None else total + level
        count += 1
    if brightest is None or total is None:
        return None
    mean = total / count
    height, width = mean.shape
    rows = [_bar(brightest[::way], mean[::way], fraction) for way, fraction in ((1, dark[0]), (-1, dark[1]))]
    inside = slice(rows[0], height - rows[1])
    brightest, mean = brightest[inside].T, mean[inside].T
    columns = [_bar(brightest[::way], mean[::way], fraction) for way, fraction in ((1, dark[2]), (-1, dark[3]))]
    if not any(rows + columns):
        return None
    bottom, right = height - rows[1], width - columns[1]
    box = PictureBox(rows[0], bottom - (bottom - rows[0]) % 2, columns[0], right - (right - columns[0]) % 2)
    return box if min(box.bottom - box.top, box.right - box.left) > 2 * EDGE_ROWS else None


def _bar(brightest: UInt8[np.ndarray, "h w"], mean: Float[np.ndarray, "h w"], dark: float) -> int:
    """Number of rows of the bar at the top; 0 without one.

    Args:
        brightest: brightest level over the frames.
        mean: mean level over the frames.
        dark: fraction of the rows that may be a bar.
    """
    n_rows, width = mean.shape
    n_segments = max(1, width // SEGMENT)
    segments = mean[:, : n_segments * min(SEGMENT, width)].reshape(n_rows, n_segments, -1).mean(axis=-1)
    segments = cv2.boxFilter(segments, -1, (1, SMOOTH_ROWS), borderType=cv2.BORDER_REPLICATE)
    level = float(np.median(segments[:MIN_BAR]))
    odd = (np.abs(segments - level) > EVEN).mean(axis=1) > ODD_SEGMENTS
    bright = np.percentile(brightest, 99.0, axis=1) > BLACK
    core = int(np.argmax(np.append(odd | bright, True)))
    lift = mean.mean(axis=1) - level
    candidates = range(max(MIN_BAR, core - SMOOTH_ROWS), min(core + RINGING, n_rows - EDGE_ROWS))
    edge = max(candidates, key=lambda row: lift[row] - lift[row - 1], default=0)
    if edge < MIN_BAR or edge > np.ceil(dark * n_rows) or core < MIN_BAR:
        return 0
    inside = float(np.median(lift[edge : edge + EDGE_ROWS]))
    if lift[core:edge].max(initial=0.0) > MAX_RINGING * inside:
        return 0
    lit = brightest[edge : edge + EDGE_ROWS] > float(np.percentile(brightest[: min(core, edge)], 99.5)) + LIT
    if lit.any(axis=0).mean() < MIN_LIT:
        return 0
    while lift[edge] < BLENDED * inside:
        edge += 1
    return edge
