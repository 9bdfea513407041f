"""Tests of mercury/websocket/wamp/."""
