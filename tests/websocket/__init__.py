"""Tests of mercury/websocket/."""
