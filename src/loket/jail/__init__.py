"""The process sandbox: starts a command on this machine with exactly what a `Confine` names."""
