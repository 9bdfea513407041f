"""The commands: mercury, mercury-admin and mercury-keys. The chat client is in mercury/client/."""
