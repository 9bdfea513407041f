"""Tests of mercury/settings/."""
