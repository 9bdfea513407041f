"""Tests of mercury/cli/."""
