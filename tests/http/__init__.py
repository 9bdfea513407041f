"""Tests of mercury/http/."""
