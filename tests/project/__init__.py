"""Checks of the project itself: layers, names, versions, its own test rules."""
