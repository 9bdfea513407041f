"""Mercury: a chat service that an application runs beside itself. Read docs/design.md first, then
mercury/node/build.py.
"""

__version__ = "0.1.0"
