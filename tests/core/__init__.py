"""Tests of mercury/core/."""
