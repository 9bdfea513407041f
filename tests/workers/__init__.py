"""Tests of mercury/workers/."""
