"""Count the operators of a training step that would each launch a kernel on CUDA; no GPU is needed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Operators that return memory without writing to it; views are told by their schema.
WITHOUT_KERNEL = ("empty", "new_empty", "detach", "alias", "lift_fresh", "_unsafe_view", "set_", "_local_scalar_dense")


class LaunchCounter(TorchDispatchMode):
    """Counts, while it is active, the operators below autograd that compute something, forward and backward.

    Kernels of the hash grids are not operators of torch and are not counted, nor are tensors of a CPU that a step on
    CUDA would read, as its frame numbers.

    Attributes:
        counts: number of calls by the operator's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and not name.startswith(WITHOUT_KERNEL):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def count_launches(step: Callable[[], object]) -> Counter[str]:
    """Run a step and count its operators by name; their total is what a step without CUDA graphs launches."""
    with LaunchCounter() as counter:
        step()
    return counter.counts
