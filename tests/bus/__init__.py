"""Tests of mercury/bus/."""
