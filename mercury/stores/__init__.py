"""Where rooms are kept: one folder for each engine that mercury/node/build.py can choose.

Each engine's store.py provides IStore of mercury/interfaces.py, and its accounts.py IAccounts. append_rules.py decides,
for all stores that decide in Python, what becomes of a batch; on Redis lua/append.lua does. pool.py runs a database's
calls in threads; sealing.py encrypts texts.
"""
