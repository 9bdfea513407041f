"""Tests of mercury/stores/."""
