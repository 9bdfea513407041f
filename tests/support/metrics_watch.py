"""A node's metrics as a test reads them, and the promise that each of them is seen to change by some test.

watch = Watch(node.chat)
await watch.look()
... something happens ...
now = await watch.look()
assert now("mercury_entries_total", kind="message") == 1
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from pytest_twisted import ensureDeferred

from mercury.core.parts import Chat
from mercury.net.siblings import Siblings
from mercury.rest.metrics import Metrics
from mercury.rest.readiness import Readiness

Sample = tuple[str, tuple[tuple[str, str], ...]]

#: The metrics that some test moves, as they say; and those that were seen to change since a test began.
MOVED: Final[set[str]] = set()
_changed: Final[set[str]] = set()


def moves(*names: str) -> Callable[[Callable[..., Awaitable[None]]], Any]:
    """Declares that a test sees each of these metrics change; it fails if it does not."""
    MOVED.update(names)

    def declare(test: Callable[..., Awaitable[None]]) -> Any:
        @wraps(test)
        async def watched(*args: Any, **kwargs: Any) -> None:
            _changed.clear()
            await test(*args, **kwargs)
            assert set(names) <= _changed

        return ensureDeferred(watched)

    return declare


class Numbers:
    """One look. Called with a name and labels it gives a sample."""

    def __init__(self, text: str) -> None:
        self.samples: dict[Sample, float] = {}
        self.metric_of: dict[Sample, str] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in self.samples, "it is there twice"
                self.samples[key] = sample.value
                self.metric_of[key] = name

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]


class Watch:
    """Looks at a node's metrics, and notes which have changed since the last look."""

    def __init__(self, chat: Chat) -> None:
        alone = Siblings(chat.clock)
        readiness = Readiness(chat, alone)
        readiness.enter("serving")
        self.metrics = Metrics(chat, readiness, "memory", alone)
        self._before: dict[Sample, float] = {}

    async def look(self) -> Numbers:
        """What they are now."""
        now = Numbers((await self.metrics.text()).decode())
        for key, value in now.samples.items():
            if self._before.get(key, value) != value:
                _changed.add(now.metric_of[key])
        self._before = now.samples
        return now
