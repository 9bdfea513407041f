"""What is generated from the code: tables in docs/, manual pages, the example file of settings."""
