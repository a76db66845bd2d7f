"""Choice of the frames of a video: pure functions of time stamps and of the change between neighbouring frames."""

import dataclasses
import itertools
import logging

import numpy as np
from jaxtyping import Bool, Float, Int

log = logging.getLogger("nsff")

MIN_FRAMES = 10  # Refuse shorter sequences: too few for structure from motion and for the motion of a scene.
MANY_FRAMES = (
    200  # Warn beyond it: the method was made for 20 to 60, and each frame costs time and disk at every stage.
)
TIME_TOLERANCE = 6e-4  # Seconds; some containers store whole milliseconds.
WHOLE_STEP_TOLERANCE = 0.01  # Take whole steps of frames where the wanted rate is this close: 29.97 is 3 times 10.
END_TOLERANCE = 0.1  # Fraction of a step by which the last wanted time may exceed the last frame's.
# A frame repeats the one before where both neighbouring steps, at most this far away, change the picture so much more.
MAX_REPEAT_SECONDS, MIN_REPEAT_WINDOW = 0.25, 3
REPEAT_RATIO = 6.0
MIN_MOTION = 3.0  # Grey levels in the block that changes most; below it compression alone may change a still picture.
MAX_STEP_RATIO = 1.6  # Longest over shortest step between frames; beyond it, the scene does not move evenly.


@dataclasses.dataclass(frozen=True)
class FrameRange:
    """Wish of the user for the frames to take.

    Attributes:
        fps: frames per second to keep; None keeps all.
        max_frames: most frames to keep, a whole number of frames apart; None keeps all.
        start: seconds after the first frame.
        end: seconds after the first frame, of the first frame that is not taken; None means the end.
    """

    fps: float | None = None
    max_frames: int | None = None
    start: float = 0.0
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class FrameChoice:
    """Frames that are taken.

    Attributes:
        indices: their numbers in the source, ascending.
        n_repeated: repeated frames left out of the stretch from which they were chosen.
        step: whole number of frames from one to the next that `max_frames` asks for; 1 = all.
        n_before: frames before `max_frames` was applied.
        gaps: (shortest, longest) step in seconds if the steps differ too much; None if they are even.
    """

    indices: list[int]
    n_repeated: int = 0
    step: int = 1
    n_before: int = 0
    gaps: tuple[float, float] | None = None


def choose_frames(times: Float[np.ndarray, " n"], repeated: Bool[np.ndarray, " n"], wish: FrameRange) -> FrameChoice:
    """Choose frames evenly in time.

    Args:
        times: time stamps, seconds, ascending.
        repeated: frames that repeat the one before them; they are left out.
        wish: rate, number and stretch.

    Returns:
        The frames; none where the stretch is empty.
    """
    last = np.inf if wish.end is None else wish.end - TIME_TOLERANCE
    within = (times - times[:1] >= wish.start - TIME_TOLERANCE) & (times - times[:1] < last)
    kept = np.flatnonzero(within & ~repeated)
    if wish.fps and len(kept) > 1:
        kept = kept[_at_rate(times[kept], wish.fps)]
    n_before, step = len(kept), 1
    if wish.max_frames and n_before > wish.max_frames:
        step = -(-n_before // wish.max_frames)
        if -(-n_before // step) < MIN_FRAMES <= wish.max_frames:  # a shorter stretch is better than too few frames
            step = n_before // wish.max_frames
        kept = kept[::step][: wish.max_frames]
    return FrameChoice(
        kept.tolist(), int((within & repeated).sum()), step, n_before, _uneven_steps(times, repeated, kept)
    )


def _at_rate(times: Float[np.ndarray, " n"], fps: float) -> Int[np.ndarray, " m"]:
    """Indices of the frames nearest to times 1 / fps apart, each once; whole steps where the rate is constant."""
    mean = (times[-1] - times[0]) / (len(times) - 1)
    even = np.abs(times - times[0] - mean * np.arange(len(times))).max() < 0.5 * mean
    step = 1.0 / (fps * mean)
    if even and round(step) >= 1 and abs(step - round(step)) < WHOLE_STEP_TOLERANCE * step:
        return np.arange(0, len(times), round(step))
    n_wanted = int((times[-1] - times[0]) * fps + END_TOLERANCE) + 1
    wanted = times[0] + np.arange(n_wanted) / fps
    middles = (times[1:] + times[:-1]) / 2.0
    return np.unique(np.searchsorted(middles, wanted + 1e-9, side="right"))


def _uneven_steps(
    times: Float[np.ndarray, " n"], repeated: Bool[np.ndarray, " n"], kept: Int[np.ndarray, " m"]
) -> tuple[float, float] | None:
    """Shortest and longest step if they differ too much; steps across a repeated frame say nothing of the camera."""
    steps = [
        times[after] - times[before]
        for before, after in itertools.pairwise(kept)
        if not repeated[before : after + 1].any()
    ]
    if len(steps) < 2 or max(steps) <= MAX_STEP_RATIO * min(steps) + 2.0 * TIME_TOLERANCE:
        return None
    return float(min(steps)), float(max(steps))


def find_repeated(changes: Float[np.ndarray, " n"], times: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Find frames that repeat the one before them, up to compression, while the picture moves before and after.

    A frame of a still beginning, or of a pause, is none: there the steps around it change nothing either.

    Args:
        changes: change from the frame before, in grey levels, in the block of the picture that changes most; the first
            value has no meaning.
        times: time stamps, seconds.
    """
    n_frames = len(changes)
    if n_frames < 3:
        return np.zeros(n_frames, bool)
    step = max((times[-1] - times[0]) / (n_frames - 1), 1e-6)
    window = max(MIN_REPEAT_WINDOW, round(MAX_REPEAT_SECONDS / step))
    moves = np.concatenate([[0.0], changes[1:]])
    views = np.lib.stride_tricks.sliding_window_view(np.pad(moves, window), window)
    needed = np.maximum(REPEAT_RATIO * moves, MIN_MOTION)
    after_motion, before_motion = views[:n_frames].max(axis=1) >= needed, views[window + 1 :].max(axis=1) >= needed
    repeated = after_motion & before_motion
    repeated[0] = False
    # Motion on one side is enough for repeats at either end, if there are others and they last as long.
    longest = max((len(list(run)) for value, run in itertools.groupby(repeated) if value), default=0)
    for ends, one_sided in ((range(n_frames - 1, 0, -1), after_motion), (range(1, n_frames), before_motion)):
        run = list(itertools.takewhile(lambda k, one_sided=one_sided: one_sided[k] or repeated[k], ends))
        if len(run) <= longest:
            repeated[run] = True
    return repeated


def log_choice(choice: FrameChoice, timed: bool) -> None:
    """Say in a line each what was left out, and warn about steps that differ and about very many frames.

    Args:
        choice: the frames.
        timed: whether times are known; they are not for a folder of images.
    """
    if choice.n_repeated:
        log.info("%d repeated frames are left out", choice.n_repeated)
    if choice.step > 1:
        log.info(
            "%d of %d frames are taken, %d apart (--max_frames)", len(choice.indices), choice.n_before, choice.step
        )
    if len(choice.indices) > MANY_FRAMES:
        log.warning(
            "%d frames are taken; the method was made for 20 to 60, and every stage takes longer with more: add "
            "--max_frames 48%s", len(choice.indices), ", or take a stretch (--start, --end)" if timed else "",
        )  # fmt: skip
    if choice.gaps is not None and timed:
        shortest, longest = choice.gaps
        log.warning(
            "the frames taken are %.0f to %.0f ms apart, but the method takes all steps as equal: add --fps %.3g",
            1e3 * shortest, 1e3 * longest, _rate_below(longest),
        )  # fmt: skip


def _rate_below(longest: float) -> float:
    """Rate at which every step can be at least as long as the longest one, rounded down to three digits."""
    rate = (1.0 + 1e-6) / longest
    digits = 10.0 ** (2 - np.floor(np.log10(rate)))
    return float(np.floor(rate * digits) / digits)
