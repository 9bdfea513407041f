"""A client of Mercury: connection.Client stays connected and loses nothing, main.main is the command mercury-client."""
