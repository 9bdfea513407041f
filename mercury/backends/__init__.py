"""Where rooms are kept, and how nodes hear of each other: one module for each thing that mercury/tap.py can choose.

The stores (memory, sqlite) provide mercury.ports.IStore. batch.py decides, for all stores that decide in Python, what
becomes of a batch; pool.py runs a database's calls in threads. These modules import ports, model, errors and a driver.
"""
