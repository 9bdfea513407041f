"""A Clock for what is done a piece a turn."""

from __future__ import annotations

from twisted.internet.task import Clock


class Turns(Clock):
    """A Clock that goes round as a reactor does: what a call puts off waits for the next turn."""

    def turn(self) -> None:
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
