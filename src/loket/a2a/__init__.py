"""Agents behind the A2A protocol (Agent2Agent, version 1.0): an optional door, with the extra `loket[a2a]`."""

from loket.a2a.door import a2a_door

__all__ = ["a2a_door"]
