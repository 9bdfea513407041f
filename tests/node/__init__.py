"""Tests of mercury/node/."""
