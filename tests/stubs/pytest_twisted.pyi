"""The types of the parts of pytest-twisted that the tests use; it brings none, and would make every test untyped."""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Literal, ParamSpec, TypeVar, overload

from twisted.internet.defer import Deferred

P = ParamSpec("P")
T = TypeVar("T")

def ensureDeferred(f: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]: ...
def inlineCallbacks(f: Callable[P, Generator[Any, Any]]) -> Callable[P, None]: ...
def blockon(d: Deferred[T]) -> T: ...
def async_fixture(f: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]: ...
@overload
def async_yield_fixture(f: Callable[P, AsyncIterator[T]]) -> Callable[P, T]: ...
@overload
def async_yield_fixture(
    *, scope: Literal["function", "module"]
) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, T]]: ...
