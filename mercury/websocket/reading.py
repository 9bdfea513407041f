"""Reading from a WebSocket in turns, so that no connection keeps the others waiting, and only while somebody wants it.

One connection's frames are handled up to a number in one turn of the reactor; while some wait for the next turn,
nothing is read from the socket. A message in fragments takes no more memory than a whole one.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall

from mercury.websocket.handshake import Handshake

FRAGMENTS: Final = 256  # of a message that are joined when there are so many


class ReadingInTurns(Handshake):
    """A connection that is read in turns, and may be paused."""

    frames_per_turn = 256
    bytes_in = 0
    _paused = False
    _has_more = False  # frames have come that wait for the next turn
    _turn: IDelayedCall | None = None
    _fragments = 0

    def pause_reading(self) -> None:
        self._paused = True
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self._paused = False
        if self._has_more and not self._gone:
            self._wait_a_turn()
        self._resume_if_wanted()

    def _resume_if_wanted(self) -> None:
        if not (self._has_more or self._paused or self._gone):
            self.transport.resumeProducing()

    def _wait_a_turn(self) -> None:
        """Leave the rest of what came in for the next turn of the reactor, and read nothing until then."""
        self._has_more = True
        self.transport.pauseProducing()
        if self._turn is None:
            self._turn = self.factory.reactor.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if not self._paused:  # else resume_reading() asks for another turn
            self._has_more = False
            data, self.data = self.data, b""
            self.bytes_in -= len(data)  # they were counted when they came
            self.dataReceived(data)
            self._resume_if_wanted()

    def consumeData(self) -> None:
        """Have Autobahn parse what has come in, as far as this turn goes."""
        if self._admitting or self._has_more:  # frames that came before the handshake is answered wait for that
            return
        if self.state not in (self.STATE_OPEN, self.STATE_CLOSING):
            super().consumeData()
            return
        for _ in range(2 * self.frames_per_turn):  # a frame's head and its payload are two steps
            if not self.processData() or self.state == self.STATE_CLOSED:
                return
        self._wait_a_turn()

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        if not length:  # an empty fragment takes memory too, and a message may have any number of them
            self.message_data_total_length += 1

    def onMessageFrameEnd(self) -> None:
        super().onMessageFrameEnd()
        self._fragments += 1
        if self._fragments % FRAGMENTS == 0:  # each by itself takes forty bytes more than it is long
            self.message_data[-FRAGMENTS:] = [b"".join(self.message_data[-FRAGMENTS:])]
