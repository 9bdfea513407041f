"""Python looks for garbage seldom, and still does."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from mercury.node.gc_tuning import NEW, look_seldom


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_it_looks_only_when_there_is_much_new() -> None:
    look_seldom()
    gone = weakref.ref(Node())
    some = [[] for _ in range(NEW // 2)]  # type: ignore[var-annotated]
    assert gone() is not None
    some += [[] for _ in range(NEW)]
    assert gone() is None


def test_what_was_there_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    look_seldom()
    assert gc.get_freeze_count() > before
