"""A server made with the official library, for tests: over standard input and output, or `--http PORT`.

What `echo` says of itself stands in the file `description.txt` of its current folder, so that a test can change it.
"""

import asyncio
import os
import sys
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp_types import Tool
from pydantic import BaseModel

_WORDS = Path("description.txt")


def words_now() -> str:
    return _WORDS.read_text() if _WORDS.exists() else "Says a text again."


def written(path: Path, text: str) -> None:
    path.write_text(text)


class Sum(BaseModel):
    """The answer of `add`."""

    sum: int


class Changing(MCPServer):
    """A server whose tool `echo` says what a file says."""

    async def list_tools(self) -> list[Tool]:
        listed = await super().list_tools()
        for tool in listed:
            if tool.name == "echo":
                tool.description = words_now()
        return listed


server = Changing("tools", version="1.0", log_level="WARNING")


@server.tool()
def echo(text: str, times: int = 1) -> str:
    """Says a text again."""
    return " ".join([text] * times)


@server.tool()
def add(a: int, b: int) -> Sum:
    """Adds two numbers."""
    return Sum(sum=a + b)


@server.tool(name="getEnvironment")
def environment() -> dict[str, str]:
    """All variables of the environment."""
    return dict(os.environ)


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ValueError(why)


@server.tool()
async def slow(ctx: Context, seconds: float) -> str:
    """Takes a while, and says how far it is."""
    try:
        for number in range(10):
            await ctx.report_progress(number, 10, "working")
            await asyncio.sleep(seconds / 10)
    except asyncio.CancelledError:
        written(Path("cancelled.txt"), "yes")
        raise
    return "done"


@server.tool()
def picture() -> Image:
    """A picture of one point."""
    return Image(data=b"\x89PNG\r\n\x1a\n" + bytes(100), format="png")


@server.tool()
async def wants(ctx: Context) -> str:
    """Asks its client for something."""
    result = await ctx.elicit("Your password?", Sum)
    return str(result)


@server.tool()
def pid() -> int:
    """The number of this process."""
    return os.getpid()


@server.tool()
def end() -> str:
    """Ends the process in the middle of a call."""
    os._exit(3)


@server.tool()
async def become(ctx: Context, words: str) -> str:
    """Changes what `echo` says of itself, and says so."""
    written(_WORDS, words)
    await ctx.notify_tools_changed()
    return "changed"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--http"]:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run()
