"""Convert frame indices to the time coordinate of the dynamic field."""

import dataclasses
import math
from typing import Literal, overload

from torch import Tensor

from nsff.errors import InputError

FlowDirection = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Times of `n_frames` frames, evenly spaced in [-1, 1).

    Indices count the loaded frames: frame 0 is `start_frame` of the sequence. A timestamp is a fractional index.
    """

    n_frames: int

    @property
    def step(self) -> float:
        """Time between consecutive frames."""
        return 2.0 / self.n_frames

    @overload
    def time_of(self, timestamp: float) -> float: ...

    @overload
    def time_of(self, timestamp: Tensor) -> Tensor: ...

    def time_of(self, timestamp: float | Tensor) -> float | Tensor:
        """Convert a timestamp in frames to field time: -1 for frame 0, `step` more for each frame.

        Note:
            Timestamps -1 and n_frames are legal: at both ends of the sequence the field is queried there, as published.
        """
        return timestamp / self.n_frames * 2.0 - 1.0

    def split(self, timestamp: float) -> tuple[int, float]:
        """Split a timestamp into (floor, remainder): a frame index and a fraction in [0, 1)."""
        frame = math.floor(timestamp)
        return frame, timestamp - frame

    def is_last(self, frame: int) -> bool:
        return frame == self.n_frames - 1

    def check_frame(self, frame: int, option: str = "target_idx") -> int:
        """Return `frame` if the sequence contains it.

        Args:
            frame: Index among the loaded frames.
            option: Name of the option it came from, for the message.

        Raises:
            InputError: The index is outside 0 to n_frames - 1.
        """
        if not 0 <= frame < self.n_frames:
            raise InputError(f"{option} = {frame} is outside the sequence: choose 0 to {self.n_frames - 1}")
        return frame

    def supervised_flow(self, frame: int) -> FlowDirection:
        """Direction in which scene flow of a frame is supervised: backward for the last frame, otherwise forward."""
        return "backward" if self.is_last(frame) else "forward"
