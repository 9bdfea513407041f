"""The store on SQLite, which is the default: one file, one writing thread."""
