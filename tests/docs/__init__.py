"""Tests of docs/: what they say is so, and their examples run."""
