"""WebSocket conformance: the cases of Autobahn|Testsuite, played against an echo on Mercury's own WebSocket factory.

README.md says how it is run and judged; `python -m tests.conformance` runs it.
"""
