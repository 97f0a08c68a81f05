"""Channels: the host keeps a wire to the other side, and a sealed module translates what goes over it."""

from loket.channels.capability import ChannelProvider
from loket.channels.manager import Channels, speaks_of
from loket.channels.system import Slash, System

__all__ = ["ChannelProvider", "Channels", "Slash", "System", "speaks_of"]
