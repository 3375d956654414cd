"""What this server asks of another one that knows an app's profiles, too, and tells it."""
