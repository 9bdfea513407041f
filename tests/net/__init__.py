"""Tests of mercury/net/."""
