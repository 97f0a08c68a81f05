"""Agents and what was granted, served to clients of the Model Context Protocol: over HTTP, and over a line of bytes."""
