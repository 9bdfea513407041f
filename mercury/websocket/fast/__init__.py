"""What only makes the WebSocket port faster. Without it Autobahn does the same, more slowly."""
