"""`--workers`: the process that supervises several nodes on one machine."""
