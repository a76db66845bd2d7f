"""Loops over frames in threads."""

import threading

import pytest
from nsff.prep.threads import MAX_THREADS, map_in_threads


def test_map_in_threads_keeps_order_and_holds_few_results():
    begun = []

    def square(value: int) -> int:
        begun.append(value)
        return value * value

    with map_in_threads(square, range(20)) as results:
        assert next(results) == 0
        assert len(begun) <= 1 + MAX_THREADS
        assert list(results) == [k * k for k in range(1, 20)]


def test_map_in_threads_passes_errors_on_and_begins_no_further_items():
    begun, release = [], threading.Event()

    def fail(value: int) -> None:
        begun.append(value)
        if value == 0:
            release.set()
            raise ValueError("frame 0")
        release.wait(10)

    with map_in_threads(fail, range(20)) as results, pytest.raises(ValueError, match="frame 0"):
        next(results)
    assert len(begun) <= MAX_THREADS
