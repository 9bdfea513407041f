"""Sockets and HTTP: Autobahn, Klein, address filtering and writing. They hand commands down and bytes out."""
