"""What this server tells others by HTTP: how it is signed, when it is sent again, and where to."""
