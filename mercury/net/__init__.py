"""Below the protocols: who may connect, TLS, direct writes to sockets, the pipe from worker to supervisor."""
