"""The gateway: the only door from outside. Loopback only; whoever asks is known by a session or a token."""
