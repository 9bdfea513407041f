"""Codecs: bytes to commands, events to bytes. They do no I/O, and know nothing of sockets or of each other."""
