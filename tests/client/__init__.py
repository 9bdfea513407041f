"""Tests of mercury/client/."""
