"""Servers that others have made, to be measured beside Mercury."""
