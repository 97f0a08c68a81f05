"""The catalogue's programs: one that the owner lists, in a process sandbox, for one call."""

from loket.contracts.capability import Capability, Constraint, Effect, Match, OnUncertain
from loket.contracts.records import ArgType, Data
from loket.contracts.shapes import Schema, closed, words

_NAME = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"

_OUTPUT = closed(
    {
        "text": {"type": "string", "description": "what was written, from its beginning"},
        "encoding": {"enum": ["utf-8", "base64"], "description": "base64 where it is no text"},
        "truncated": {"type": "boolean", "description": "whether there was more"},
    },
    *("text", "encoding", "truncated"),
)

_FILES: Schema = {"type": "object", "maxProperties": 32, "propertyNames": {"pattern": _NAME}}

EXEC: tuple[Capability, ...] = (
    Capability(
        id="exec.run",
        summary="Run a program that the owner lists, without a shell, network or files but those that are passed",
        effect=Effect.EXECUTE,
        arguments=closed(
            {
                "binary": words(1_024, about="absolute path of the program, as the settings list it"),
                "arguments": {
                    "type": "array",
                    "items": words(16_000, least=0),
                    "maxItems": 200,
                    "default": [],
                    "description": "passed as they are; nothing is expanded",
                },
                "input": words(1 << 20, least=0, about="its standard input"),
                "files": {
                    **_FILES,
                    "additionalProperties": words(1 << 20, least=0),
                    "description": "name to text: put into its folder, which is new for each call and gone after it",
                },
                "take": {
                    "type": "array",
                    "items": {"type": "string", "pattern": _NAME},
                    "maxItems": 32,
                    "description": "names of files in its folder to answer with, where they are there afterwards",
                },
                "timeout_s": {"type": "number", "minimum": 0.1, "maximum": 600, "default": 30},
            },
            "binary",
        ),
        answer=closed(
            {
                "exit_code": {
                    "type": ["integer", "null"],
                    "description": "128 and the number of a signal that ended it",
                },
                "timed_out": {"type": "boolean"},
                "stdout": _OUTPUT,
                "stderr": _OUTPUT,
                "files": {**_FILES, "additionalProperties": _OUTPUT},
            },
            *("exit_code", "timed_out", "stdout", "stderr", "files"),
        ),
        critical=("binary", "arguments"),
        constraints=(Constraint("binaries", "binary", Match.EXACT, required=True),),
        on_uncertain=OnUncertain.ASK,
        timeout_s=620.0,
        args_kb=4_096,
        answer_kb=4_096,
        waits=True,
        examples=({"binary": "/usr/bin/jq", "arguments": ["length"], "input": "[1, 2]"},),
        data=Data(types={"binary": ArgType("path"), "arguments": ArgType("text")}),
    ),
)
