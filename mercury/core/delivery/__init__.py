"""From the log to the sessions: who listens to which room, and what each of them still has to get."""
