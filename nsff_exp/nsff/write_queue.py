"""Files written by a few threads, while a GPU renders the next ones."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

N_THREADS = 2
MAX_WAITING = 4  # writes; a further one waits for the oldest, so that rendered pictures do not pile up


class WriteQueue:
    """Runs writes in threads. At the end of the context all have ended, whatever happened.

    The error of a write is raised by a later `submit`, or at the end of a context without an error of its own.
    """

    def __init__(self) -> None:
        self._threads, self._waiting = ThreadPoolExecutor(N_THREADS), deque[Future[None]]()

    def __enter__(self) -> "WriteQueue":
        return self

    def submit(self, write: Callable[[], None]) -> None:
        """Run a write soon; several may run at once, and not in their order."""
        while len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(write))

    def __exit__(self, kind: object, *_: object) -> None:
        self._threads.shutdown(wait=True)
        if kind is None:
            for write in self._waiting:
                write.result()
