"""Mercury: a chat service to run next to your application. Read docs/design.md first, then mercury/node/build.py."""

__version__ = "0.1.0"
