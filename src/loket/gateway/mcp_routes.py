"""The routes of servers of the Model Context Protocol. A program may look; what is approved is the owner's to say.

Adding and importing are the command line's alone: they name programs and files of this machine.
"""

from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Endpoint, through
from loket.gateway.shapes import ANY_OBJECT, MAYBE_TEXT, TEXT, given, listed, taken, text

_NAMES: shapes.Schema = {"type": "array", "items": TEXT}
_NAME = {"name": text(41, "the server's name")}
_FLAG: shapes.Schema = {"type": "boolean"}

TOOL = given(
    {
        "name": TEXT,
        "capability": TEXT,
        "state": {"enum": ["new", "approved", "changed", "refused", "gone", "unusable"]},
        "effect": TEXT,
        "critical": {**_NAMES, "description": "the arguments that say whom or what"},
        "repeatable": _FLAG,
        "summary": TEXT,
        "digest": {**TEXT, "description": "SHA-256 of the definition"},
        "definition": {**ANY_OBJECT, "description": "as the server says it; nothing of it is checked"},
        "arguments": ANY_OBJECT,
        "hints": ANY_OBJECT,
        "flags": {"type": "array", "items": ANY_OBJECT, "description": "words that look like an instruction"},
        "unusable": MAYBE_TEXT,
    },
    "definition",
    "arguments",
    "hints",
    "flags",
    "unusable",
)

_BRIEF: dict[str, shapes.Schema] = {
    "name": TEXT,
    "transport": {"enum": ["stdio", "http"]},
    "target": TEXT,
    "sandbox": {"enum": ["on", "off", None]},
    "approved": _FLAG,
    "enabled": _FLAG,
    "connected": _FLAG,
    "protocol": MAYBE_TEXT,
    "error": MAYBE_TEXT,
    "tools": {**ANY_OBJECT, "description": "how many tools are in which state"},
}

SERVER = given(
    {
        **_BRIEF,
        "entry": {**ANY_OBJECT, "description": "how it is started or reached; secrets are references"},
        "digest": TEXT,
        "origin": TEXT,
        "flags": {"type": "array", "items": ANY_OBJECT},
        "secrets": {"type": "array", "items": ANY_OBJECT},
        "workspace": MAYBE_TEXT,
        "server": MAYBE_TEXT,
        "since": {"type": ["number", "null"]},
        "calls": {"type": "integer"},
        "failures": {"type": "integer"},
        "logged_in": {"type": ["boolean", "null"]},
        "list": {"type": "array", "items": TOOL},
    }
)

_DIFF = given(
    {
        "server": TEXT,
        "tool": TEXT,
        "state": TEXT,
        "diff": {**TEXT, "description": "unified, of canonical JSON"},
        "configuration": {**_FLAG, "description": "whether the server is started otherwise than when it was approved"},
        "digest": TEXT,
        "flags": {"type": "array", "items": ANY_OBJECT},
    }
)

_DIGEST = text(64, "of what was looked at; something else is not approved")
_APPROVED = taken(
    {
        "tool": text(200, "the tool's name; left out, how the server is started"),
        "digest": _DIGEST,
        "effect": text(20, "what it does: read, egress ..."),
        "critical": {"type": "array", "items": text(200, "an argument"), "maxItems": 256},
        "repeatable": _FLAG,
    },
    "digest",
)

ROUTES = (
    Endpoint(
        "GET",
        "/v1/mcp",
        "listMcpServers",
        "Servers whose tools agents can use",
        through("mcp.list"),
        answers={200: listed("servers", given(_BRIEF))},
    ),
    Endpoint(
        "GET",
        "/v1/mcp/{name}",
        "showMcpServer",
        "A server with its entry, what is remarkable about it, and its tools",
        through("mcp.show"),
        params=_NAME,
        answers={200: SERVER},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/mcp/{name}/tools",
        "listMcpTools",
        "The tools of a server, with what the filter says of their words",
        through("mcp.tools"),
        params=_NAME,
        query={"tool": text(200, "only this one")},
        answers={200: listed("tools", TOOL)},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/mcp/{name}/diff",
        "diffMcpTool",
        "How a tool differs from what was approved",
        through("mcp.diff"),
        params=_NAME,
        query={"tool": text(200, "the tool's name")},
        answers={200: _DIFF},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/mcp/{name}/approve",
        "approveMcp",
        "Approve how a server is started, or a tool, as it was looked at",
        through("mcp.approve"),
        Access.OWNER,
        params=_NAME,
        body=_APPROVED,
        answers={200: ANY_OBJECT},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/mcp/{name}/refuse",
        "refuseMcpTool",
        "Refuse a tool, or take its approval back",
        through("mcp.refuse"),
        Access.OWNER,
        params=_NAME,
        body=taken({"tool": text(200, "the tool's name")}, "tool"),
        answers={200: TOOL},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/mcp/{name}/test",
        "testMcpServer",
        "Connect a server now, and list its tools",
        through("mcp.test"),
        Access.OWNER,
        params=_NAME,
        answers={200: SERVER},
        errors=(404,),
    ),
    Endpoint(
        "PUT",
        "/v1/mcp/{name}/enabled",
        "enableMcpServer",
        "Switch a server on or off",
        through("mcp.enable"),
        Access.OWNER,
        params=_NAME,
        body=taken({"enabled": _FLAG}, "enabled"),
        answers={200: SERVER},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/mcp/{name}",
        "removeMcpServer",
        "Forget a server",
        through("mcp.remove"),
        Access.OWNER,
        params=_NAME,
        answers={200: ANY_OBJECT},
        errors=(404,),
    ),
)
