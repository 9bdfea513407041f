"""Tests of mercury/gotalk/."""
