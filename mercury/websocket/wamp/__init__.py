"""WAMP, the subprotocols of Autobahn JS and others."""
