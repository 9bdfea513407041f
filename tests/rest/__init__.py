"""Tests of mercury/rest/."""
