"""The catalogue's tools: files, the network, and what modules say to each other."""

from loket.contracts.capability import Capability, Constraint, Effect, Match, OnUncertain
from loket.contracts.catalogue_plan import LONGEST_S
from loket.contracts.records import ArgType, Data, Rows
from loket.contracts.shapes import Schema, closed, words

PATH: Schema = words(1_024, about="relative to the agent's own folder, with slashes: notes/today.md")

PATHS = (Constraint("paths", "path"),)

FILE_KB = 1024
"""Most KiB of text that one call reads or writes."""

HOSTS = (
    Constraint("hosts", "url", Match.HOST, required=True),
    Constraint("private", "url", Match.PROVIDER, owner_only=True),
    Constraint("secrets", "headers", Match.PROVIDER, owner_only=True),
)

TEXT_FILE = Rows("text", minted={"path": "path"}, text={"text": ""}, keys=("path",), bind={"path": "path"})
FILE_NAMES = Rows("file", "entries[]", minted={"name": "file", "modified": "date"}, keys=("name",), insertable=False)
"""Of the agent's own folder: others put nothing there but through a run, whose words say where they are from."""
WEB_PAGE = Rows("page", minted={"url": "url"}, text={"text": ""}, keys=("url",), bind={"url": "url"})
AN_AGENT = Data(types={"agent": ArgType("name", kind="agent")})
A_TOPIC = Data(types={"topic": ArgType("name", kind="topic")})

TOPIC = {
    "type": "string",
    "pattern": "^[a-z0-9][a-z0-9._/-]{0,99}$",
    "description": "small letters, digits, dots, slashes and hyphens: weather/storm",
}

AGENT = {"type": "string", "pattern": "^[a-z][a-z0-9-]{1,40}$", "description": "id of an installed agent"}

TEXT = words(100_000, about="the message")

TOOLS: tuple[Capability, ...] = (
    Capability(
        id="fs.read",
        summary="Read a text file in the agent's own folder",
        effect=Effect.PRIVATE,
        arguments=closed(
            {
                "path": PATH,
                "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "first byte to read"},
                "limit": {"type": "integer", "minimum": 1, "maximum": FILE_KB << 10, "description": "bytes to read"},
            },
            "path",
        ),
        answer=closed(
            {
                "text": {"type": "string"},
                "size": {"type": "integer", "minimum": 0, "description": "bytes of the whole file"},
                "more": {"type": "boolean", "description": "whether the file goes on behind the text"},
            },
            "text",
            "size",
            "more",
        ),
        constraints=PATHS,
        answer_kb=8 * FILE_KB,
        examples=({"path": "notes/today.md"},),
        data=Data(types={"path": ArgType("path")}, rows=(TEXT_FILE,)),
    ),
    Capability(
        id="fs.write",
        summary="Write a text file in the agent's own folder, in the place of any that was there",
        effect=Effect.MODIFY,
        arguments=closed({"path": PATH, "text": words(FILE_KB << 10, least=0)}, "path", "text"),
        answer=closed({"size": {"type": "integer", "minimum": 0, "description": "bytes written"}}, "size"),
        critical=("path",),
        data=Data(types={"path": ArgType("path", lenient=True)}),
        constraints=PATHS,
        on_uncertain=OnUncertain.DEDUPE,
        args_kb=8 * FILE_KB,
        examples=({"path": "notes/today.md", "text": "Ana called."},),
    ),
    Capability(
        id="fs.list",
        summary="List a directory in the agent's own folder, in the order of names",
        effect=Effect.PRIVATE,
        arguments=closed(
            {
                "path": words(1_024, least=0, about="directory; empty is the agent's folder itself"),
                "after": words(1_024, about="go on after this name"),
                "limit": {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 200},
            }
        ),
        answer=closed(
            {
                "entries": {
                    "type": "array",
                    "items": closed(
                        {
                            "name": {"type": "string"},
                            "kind": {"enum": ["file", "directory"]},
                            "size": {"type": "integer", "minimum": 0, "description": "bytes; 0 for a directory"},
                            "modified": {"type": "string", "format": "date-time"},
                        },
                        "name",
                        "kind",
                        "size",
                        "modified",
                    ),
                }
            },
            "entries",
        ),
        constraints=PATHS,
        examples=({"path": "notes"},),
        data=Data(rows=(FILE_NAMES,), listing={}),
    ),
    Capability(
        id="net.fetch",
        summary="Read a web address of a host that the owner granted",
        effect=Effect.FETCH,
        arguments=closed(
            {
                "url": words(4_096, about="http or https"),
                "method": {"enum": ["GET", "HEAD"], "default": "GET"},
                "headers": {
                    "type": "object",
                    "maxProperties": 32,
                    "propertyNames": {"pattern": "^[A-Za-z0-9-]{1,64}$"},
                    "additionalProperties": {"type": "string", "maxLength": 2_000},
                    "description": "`{{secret:NAME}}` stands for a secret that was granted; the module never sees it",
                },
                "max_kb": {"type": "integer", "minimum": 1, "maximum": 4_096, "default": 1_024},
                "timeout_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 60, "default": 20},
            },
            "url",
        ),
        answer=closed(
            {
                "status": {"type": "integer", "minimum": 100, "maximum": 599},
                "url": {"type": "string", "description": "the address that answered, after redirects"},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "text": {"type": "string", "description": "the body, decoded; empty where it is no text"},
                "truncated": {"type": "boolean", "description": "whether the body was longer than max_kb"},
            },
            "status",
            "url",
            "headers",
            "text",
            "truncated",
        ),
        critical=("url",),
        data=Data(types={"url": ArgType("url")}, rows=(WEB_PAGE,)),
        constraints=HOSTS,
        timeout_s=65.0,
        answer_kb=16 * 1024,
        waits=True,
        examples=({"url": "https://api.open-meteo.com/v1/forecast?latitude=52"},),
    ),
    Capability(
        id="agent.ask",
        summary="Ask another agent and wait for its answer; it uses its own grants, within what this run has left",
        effect=Effect.MODIFY,
        arguments=closed(
            {
                "agent": AGENT,
                "text": TEXT,
                "timeout_s": {"type": "number", "minimum": 1, "maximum": 3_600, "default": 300},
            },
            "agent",
            "text",
        ),
        answer=closed({"text": {"type": "string"}, "run": {"type": "string"}}, "text", "run"),
        critical=("agent",),
        data=AN_AGENT,
        constraints=(Constraint("agents", "agent", Match.EXACT),),
        on_uncertain=OnUncertain.DEDUPE,
        timeout_s=LONGEST_S,
        waits=True,
        examples=({"agent": "weather", "text": "Will it rain tomorrow?"},),
    ),
    Capability(
        id="message.send",
        summary="Send a message to another agent, without waiting for an answer",
        effect=Effect.MODIFY,
        arguments=closed({"agent": AGENT, "text": TEXT}, "agent", "text"),
        answer=closed({"run": {"type": "string", "description": "the run that answers it"}}, "run"),
        critical=("agent",),
        data=AN_AGENT,
        constraints=(Constraint("agents", "agent", Match.EXACT),),
        on_uncertain=OnUncertain.DEDUPE,
        waits=True,
        examples=({"agent": "diary", "text": "It rained."},),
    ),
    Capability(
        id="message.publish",
        summary="Publish a message on a topic; each agent that subscribes to it gets it as a run of its own",
        effect=Effect.MODIFY,
        arguments=closed({"topic": TOPIC, "text": TEXT}, "topic", "text"),
        answer=closed({"delivered": {"type": "array", "items": AGENT, "description": "who got it"}}, "delivered"),
        critical=("topic",),
        data=A_TOPIC,
        constraints=(Constraint("topics", "topic"),),
        on_uncertain=OnUncertain.DEDUPE,
        waits=True,
        examples=({"topic": "weather/storm", "text": "Storm from the west at noon"},),
    ),
    Capability(
        id="message.subscribe",
        summary="Get the messages of a topic, or of all topics below one that ends in /, from now on",
        effect=Effect.MODIFY,
        arguments=closed({"topic": TOPIC}, "topic"),
        answer=closed({"topics": {"type": "array", "items": {"type": "string"}}}, "topics"),
        critical=("topic",),
        data=A_TOPIC,
        constraints=(Constraint("topics", "topic"),),
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"topic": "weather/"},),
    ),
    Capability(
        id="message.unsubscribe",
        summary="Get no more messages of a topic",
        effect=Effect.MODIFY,
        arguments=closed({"topic": TOPIC}, "topic"),
        answer=closed({"topics": {"type": "array", "items": {"type": "string"}}}, "topics"),
        critical=("topic",),
        data=A_TOPIC,
        constraints=(Constraint("topics", "topic"),),
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"topic": "weather/"},),
    ),
)
