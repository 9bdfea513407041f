"""Judges what WAMP clients say that they saw (wamp_programs.py) by what the server has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.recorder import Seen

Said = dict[str, Any]

ENTRIES = ("message", "joined", "left")


def wrong_with(said: Sequence[Said], task: dict[str, str], history: Sequence[Seen], sessions: int) -> list[str]:
    """What contradicts the promises in what a client said it saw of its room. `history`: all messages that the server
    has, oldest first. `sessions`: how often it was to log in."""

    def saw(what: str) -> list[Said]:
        return [one for one in said if one["saw"] == what]

    events = [event for event in saw("event") if event["rid"] == task["rid"]]
    entries = [event for event in events if event["type"] in ENTRIES]
    messages = [(event["seq"], event["text"]) for event in entries if event["type"] == "message"]
    looked_up = [(message["seq"], message["text"]) for message in saw("history")]
    sent = [(message["seq"], message["text"]) for message in saw("sent")]
    there = [(message.seq, message.text) for message in history]
    resets = [events[max(0, nr - 3) : nr + 3] for nr, event in enumerate(events) if event["type"] == "reset"]
    own = [(message.seq, message.text) for message in history if message.mid == task["member"]]
    checks = {
        f"{len(saw('session'))} logins, not {sessions}": len(saw("session")) == sessions,
        "a login by another method": all(one["method"] == task["method"] for one in saw("session")),
        "fewer losses of the connection than there were": len(saw("closed")) >= sessions - 1,
        f"errors: {saw('error')}": not saw("error"),
        "another topic": {event["topic"] for event in events} == {task["room_topic"]},
        "entries lost, repeated, or out of order": [e["seq"] for e in entries] == [*range(1, len(entries) + 1)],
        "messages that are not those that the server has": messages == there[: len(messages)],
        "it did not get to the end": "stop" in [text for _, text in messages],
        "a history that is not the server's": looked_up == there[: len(looked_up)],
        "a history without the end": "stop" in [text for _, text in looked_up],
        "not caught up after each login": sum(e["type"] == "caught_up" for e in events) >= sessions,
        f"resets: {resets}": not resets,
        "what it sent is not there, there twice, or in another order": sent == own
        and [text for _, text in own] == [f"{task['member']} {n}" for n in range(len(own))],
    }
    return [what for what, holds in checks.items() if not holds]


def heard_aside(said: Sequence[Said], rid: str) -> list[str | None]:
    """What a client heard of another room: of messages the text, else the type."""
    events = [one for one in said if one["saw"] == "event" and one["rid"] == rid and one["type"] != "caught_up"]
    return [event["text"] if event["type"] == "message" else event["type"] for event in events]
