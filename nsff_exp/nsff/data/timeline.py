"""Frame numbers and the time that the dynamic field takes."""

import dataclasses
import math
from typing import Literal

from nsff.errors import InputError

FlowDirection = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """`n_frames` frames, evenly spaced in [-1, 1).

    Time is relative to the frames that were loaded: frame 0 is `start_frame` of the sequence.
    """

    n_frames: int

    @property
    def step(self) -> float:
        """Time between two frames."""
        return 2.0 / self.n_frames

    def time_of(self, frame: float) -> float:
        """Time of a frame, or of a moment between two; -1 for the first.

        Frames -1 and n_frames are legal: the field is queried there at the two ends, as published.
        """
        return frame / self.n_frames * 2.0 - 1.0

    def split(self, frame: float) -> tuple[int, float]:
        """The last frame that is not after a moment, and how far the moment is beyond it (0 .. 1, in frames)."""
        first = math.floor(frame)
        return first, frame - first

    def is_first(self, frame: int) -> bool:
        return frame == 0

    def is_last(self, frame: int) -> bool:
        return frame == self.n_frames - 1

    def check_frame(self, frame: int, option: str = "target_idx") -> int:
        """`frame` if the sequence has it.

        Raises:
            InputError: it is outside 0 .. n_frames - 1.
        """
        if not 0 <= frame < self.n_frames:
            raise InputError(f"{option} = {frame} is outside the sequence: choose 0 to {self.n_frames - 1}")
        return frame

    def known_flow(self, frame: int) -> FlowDirection:
        """The direction in which a frame's motion has been seen: backward for the last one, else forward."""
        return "backward" if self.is_last(frame) else "forward"
