"""What all parts speak of: messages, commands, events, close codes, counters, whom a log line is about."""
