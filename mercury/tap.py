"""What `twistd mercury` runs: a node (mercury/node/build.py), or with `--workers` one that supervises some
(mercury/workers/supervisor.py).

Each imports its parts when it is chosen: who supervises needs hardly any.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from twisted.application.service import IService

from mercury.net.worker_pipe import place_of
from mercury.settings.flags import Options as Options  # twistd looks for it here
from mercury.settings.types import ConfigError


def makeService(options: Options) -> IService:
    """What the options ask for. Wrong settings end the process with one line."""
    if options.config.workers == 1 or place_of() is not None:
        from mercury.node.build import make_node

        return make_node(options)
    from twisted.internet import reactor as installed

    from mercury.node.systemd import sockets
    from mercury.workers.supervisor import Workers

    reactor: Any = installed
    reactor.seconds = time.monotonic
    try:
        return Workers(reactor, options, sockets(os.environ))
    except ConfigError as error:
        sys.exit(f"mercury: {error}")
