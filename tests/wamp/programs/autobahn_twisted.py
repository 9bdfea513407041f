"""Autobahn Python on Twisted: python autobahn_twisted.py '{"url": …}'"""

from typing import Any

from autobahn.twisted.component import Component, run
from autobahn_python import Talker
from twisted.internet import reactor as installed
from twisted.internet.task import deferLater

reactor: Any = installed

talker = Talker(Component, lambda seconds: deferLater(reactor, seconds))
run([talker.component], log_level=None)  # type: ignore[arg-type] # so that what is printed is not made a log of
