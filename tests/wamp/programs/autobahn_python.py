"""What Autobahn Python does in the tests, on Twisted and on asyncio: the same as autobahn_client.js.

The program's only argument is a JSON object: url, member, token, method, serializer, topic, rid, side, leaves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from autobahn.wamp.exception import ApplicationError, TransportLost
from autobahn.wamp.types import SessionDetails, SubscribeOptions

SAID_AS = {"ticket": "ticket", "wampcra": "secret"}
FATAL = {"wamp.close.killed", "wamp.error.authentication_denied"}  # after which to stay away


class Talker:
    """Talks in a room until somebody says "stop". `component` and `sleep`: the Component class and the pause of the one
    loop or the other."""

    def __init__(self, component: Any, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.sleep = sleep
        self.task: dict[str, str] = json.loads(sys.argv[1])
        self.authextra: dict[str, Any] = {"device": "talker"}
        self.sent = 0
        self.stopped = False
        method = self.task["method"]
        self.component = component(
            transports=[
                {
                    "type": "websocket",
                    "url": self.task["url"],
                    "serializers": [self.task["serializer"]],
                    "initial_retry_delay": 0.2,
                    "max_retry_delay": 0.6,
                    "max_retries": -1,
                }
            ],
            realm="mercury",
            authentication={
                method: {
                    "authid": self.task["member"],
                    SAID_AS[method]: self.task["token"],
                    "authextra": self.authextra,
                }
            },
            is_fatal=lambda error: getattr(error, "error", None) in FATAL,
        )
        self.component.on_join(self.on_join)
        self.component.on_leave(self.on_leave)

    def say(self, saw: str, **what: object) -> None:
        print(json.dumps({"saw": saw, **what}), flush=True)

    def on_leave(self, session: Any, details: Any) -> None:
        self.say("closed", why=details.reason)

    async def on_join(self, session: Any, details: SessionDetails) -> None:
        self.say("session", method=details.authmethod)
        told = SubscribeOptions(details_arg="details")
        is_first = "resume" not in self.authextra
        welcome = details.authextra or {}
        self.authextra.setdefault("resume", {"epoch": welcome["epoch"], "rooms": {}})
        try:
            if is_first and self.task["side"]:
                await session.subscribe(self.on_event, self.task["side"], told)
            await session.subscribe(self.on_event, self.task["topic"], told)
            while not self.stopped:
                await self.speak(session)
            await self.look_back(session)
        except TransportLost:
            return  # it was lost while nothing was asked; what is then unanswered never is. The next session goes on
        except ApplicationError as error:
            self.say("error", error=error.error)
        self.say("all")
        if self.task["leaves"]:
            session.leave()

    def on_event(self, *args: str, details: Any, **kwargs: Any) -> None:
        self.say("event", text=args[0] if args else None, topic=details.topic, **kwargs)
        if kwargs["type"] != "caught_up":
            self.authextra["resume"]["rooms"][kwargs["rid"]] = kwargs["seq"]
        if kwargs["type"] == "message" and args[0] == "stop":
            self.stopped = True

    async def speak(self, session: Any) -> None:
        text = f"{self.task['member']} {self.sent}"
        answer = await session.call("mercury.send", self.task["rid"], text, cid=text)
        self.say("sent", text=text, seq=answer["seq"], duplicate=answer["duplicate"])
        self.sent += 1
        await self.sleep(0.01)

    async def look_back(self, session: Any) -> None:
        after, more = 0, True
        while more:
            page = await session.call("mercury.history", self.task["rid"], after=after, limit=100)
            for message in page["messages"]:
                self.say("history", text=message["text"], seq=message["seq"])
                after = message["seq"]
            more = page["more"]
