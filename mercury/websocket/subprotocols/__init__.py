"""The JSON subprotocols: bytes to commands, events to bytes."""
