"""What it may cost to look at something that a stranger has sent: CPU time and memory, about as much as it is long."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LONGEST = 20  # seconds of CPU, where hundredths are usual: what never ends is to fail, and a slow machine is not


@contextmanager
def cpu_limit() -> Iterator[None]:
    """Raises within if too much CPU time is used, however long it takes by the clock."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("that takes too long")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def bounded_by(size: int) -> Iterator[None]:
    """Fails if what is done within, with so many bytes, takes more CPU time or memory than fits."""
    with cpu_limit():
        tracemalloc.start()
        try:
            yield
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert peak < 200_000 + 100 * size
