"""The chat itself: logs, fan-out, sessions, tokens. It knows no socket, no HTTP and no database driver."""
