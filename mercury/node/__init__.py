"""One node: how it is built from the settings, started, watched by systemd, reloaded and stopped."""
