"""Where rooms are kept, and how nodes hear of each other: one module for each thing that mercury/tap.py can choose.

The stores (memory, sqlite, mysql, redis) provide mercury.ports.IStore and, each with a module *_accounts.py,
mercury.ports.IAccounts. batch.py decides, for all stores that decide in Python, what becomes of a batch; on Redis
lua/append.lua does. pool.py runs a database's calls in threads, redis_link.py keeps a connection to Redis. The buses
(bus_local, bus_mysql, bus_redis) provide mercury.ports.IBus. These modules import ports, signals, model, errors and a
driver.
"""
