"""Tells twistd that there is a command `mercury`. What it does stands in mercury/tap.py, imported when it is asked
for.

Twisted finds this file in any `twisted/plugins` folder on the import path; beside it there must be no `__init__.py`.
"""

from twisted.application.service import ServiceMaker

mercury = ServiceMaker("Mercury", "mercury.tap", "A chat service: rooms over WebSocket, tokens over REST.", "mercury")
