"""What REST and goTalk share of HTTP: the server, its limits, errors as JSON."""
