"""The families of capabilities: one file each (with helpers beside it), none knowing another."""
