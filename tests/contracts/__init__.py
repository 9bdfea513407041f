"""What every store must do, by the interfaces in mercury/interfaces.py; tests/stores runs it over each of them."""
