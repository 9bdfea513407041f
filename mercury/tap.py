"""What `twistd mercury` runs: its options, and the service that they ask for (as twisted.web.tap has both).

The service is a node (mercury/node/build.py), or with `--workers` the process that supervises several nodes
(mercury/workers/supervisor.py). Each imports its own parts only: a supervisor needs hardly any.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from mercury.net.worker_pipe import worker_slot
from mercury.settings.flags import Flags
from mercury.settings.types import ConfigError


class Options(Flags):
    """The flags behind the word `mercury` of twistd's command line."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """A mistake ends the process here, with its one line: twistd would print all of the help above it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            sys.exit(f"mercury: {error}")

    def getSynopsis(self) -> str:
        """How it is called. twistd's would name twistd's flags as well, which are given before the word `mercury`."""
        return "Usage: mercury [options]"


def makeService(options: Options) -> IService:
    """What the options ask for. Wrong settings end the process with one line."""
    if options.config.workers == 1 or worker_slot() is not None:
        from mercury.node.build import make_node

        return make_node(options)
    from twisted.internet import reactor as installed

    from mercury.node.systemd import sockets
    from mercury.workers.supervisor import Supervisor

    reactor: Any = installed
    reactor.seconds = time.monotonic
    try:
        return Supervisor(reactor, options, sockets(os.environ))
    except ConfigError as error:
        sys.exit(f"mercury: {error}")
