"""Mercury's tests, laid out as the code is; support/ has the helpers."""
