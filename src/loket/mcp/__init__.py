"""The client's side of the Model Context Protocol: servers whose tools are capabilities `mcp.<server>.<tool>`.

The library that speaks the protocol is large, so it is imported when the first server is connected and not before.
"""

from loket.mcp.servers import Servers
from loket.mcp.settings import Server

__all__ = ["Server", "Servers"]
