"""The store in memory, for tests and trials: nothing is kept."""
