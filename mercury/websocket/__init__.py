"""The WebSocket port: connections, frames, and the subprotocols that are spoken on them."""
