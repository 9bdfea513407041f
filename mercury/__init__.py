"""Mercury: a chat service that an application runs beside itself. Start reading at docs/design.md, then mercury/tap.py."""

__version__ = "0.1.0"
