"""Threads for loops over frames whose time is spent in OpenCV and numpy, which release Python's lock."""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 2  # Each holds the matching costs of a frame: 80 MB at 480x270.

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
    """Give an iterator over `function(item)`, in the order of the items, computed by a few threads.

    At most `MAX_THREADS` calls are under way or waiting to be taken; leaving the context drops those not begun.
    """
    pool = ThreadPoolExecutor(MAX_THREADS)
    remaining = iter(items)

    def results() -> Iterator[Result]:
        pending: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in itertools.islice(remaining, MAX_THREADS)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
            yield result

    try:
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
