"""The gateway: the only door from outside. Loopback only; every request carries the home's token."""
