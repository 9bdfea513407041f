"""The REST API for the application's backend, and what operators ask: readiness and metrics."""
