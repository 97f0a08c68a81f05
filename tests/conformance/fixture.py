"""What the conformance suite expects of a server, as capabilities behind the counter.

Their ids are `conformance.NAME`, and each call of one is a run of the client, granted, decided and journaled like any
other. Names, texts and shapes are those of the suite's own description of its scenarios.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from loket.clients import Client, granted
from loket.contracts import Answer, Call, Capability, Effect, Failed, Handler, Json
from loket.mcp_server.calls import NEEDS, Again, Calls

PREFIX = "conformance."
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
STEP_S = 0.05

_ANY: Mapping[str, Json] = {"type": "object"}
_TEXT = {"type": "string"}

Made = Callable[[Call], Awaitable[dict[str, Json]]]
_MADE: dict[str, tuple[Made, Mapping[str, Json]]] = {}


def made(name: str, schema: Mapping[str, Json] | None = None) -> Callable[[Made], Made]:
    """A tool of the suite; `schema` has its arguments, whole."""

    def keep(function: Made) -> Made:
        _MADE[name] = (function, schema or {"type": "object", "properties": {"input": _ANY}})
        return function

    return keep


def _with(**properties: Json) -> dict[str, Json]:
    """The schema of a tool with these arguments, all of them required."""
    return {"type": "object", "properties": {**properties, "input": _ANY}, "required": list(properties)}


def text(said: str) -> dict[str, Json]:
    return {"type": "text", "text": said}


def _image() -> dict[str, Json]:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def _resource(uri: str, kind: str, said: str) -> dict[str, Json]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": said}}


# Contents


@made("test_simple_text")
async def _simple(_call: Call) -> dict[str, Json]:
    return {"content": [text("This is a simple text response for testing.")]}


@made("test_image_content")
async def _picture(_call: Call) -> dict[str, Json]:
    return {"content": [_image()]}


@made("test_audio_content")
async def _audio(_call: Call) -> dict[str, Json]:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


@made("test_embedded_resource")
async def _embedded(_call: Call) -> dict[str, Json]:
    return {"content": [_resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]}


@made("test_multiple_content_types")
async def _mixed(_call: Call) -> dict[str, Json]:
    data = json.dumps({"test": "data", "value": 123})
    resource = _resource("test://mixed-content-resource", "application/json", data)
    return {"content": [text("Multiple content types test:"), _image(), resource]}


@made("test_error_handling")
async def _error(_call: Call) -> dict[str, Json]:
    raise Failed("conformance.error", "This tool intentionally returns an error for testing")


@made("test_tool_with_logging")
async def _logging(call: Call) -> dict[str, Json]:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        call.emit(f"{said}\n")
        await asyncio.sleep(STEP_S)
    return {"content": [text("Done, with messages on the way.")]}


@made("test_tool_with_progress")
async def _progress(call: Call) -> dict[str, Json]:
    for said in ("The work has begun.", "Half of it is done.", "All of it is done."):
        call.emit(f"{said}\n")
        await asyncio.sleep(STEP_S)
    return {"content": [text("Done, with progress on the way.")]}


@made(
    "json_schema_2020_12_tool",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {"type": "object", "properties": {"street": _TEXT, "city": _TEXT}},
        },
        "properties": {"name": _TEXT, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
)
async def _schema(_call: Call) -> dict[str, Json]:
    return {"content": [text("Its schema is what is tested.")]}


# What needs more from the client


def _form(message: str, required: Sequence[str] = (), **properties: Json) -> dict[str, Json]:
    schema: dict[str, Json] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def _sample(said: str, tokens: int = 100) -> dict[str, Json]:
    message = {"role": "user", "content": text(said)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": tokens}}


_ROOTS = {"method": "roots/list", "params": {}}


def _needs(state: Json = None, **requests: Json) -> dict[str, Json]:
    return {NEEDS: {"requests": requests, **({} if state is None else {"state": state})}}


def _given(call: Call, *keys: str) -> Mapping[str, Any] | None:
    """The responses, if all of these are there and are objects."""
    responses = call.args.get("input", {}).get("responses", {})
    return responses if all(isinstance(responses.get(key), dict) for key in keys) else None


def _state(call: Call) -> Json:
    return call.args.get("input", {}).get("state")


@made("test_sampling", _with(prompt=_TEXT))
async def _sampling(call: Call) -> dict[str, Json]:
    got = _given(call, "answer")
    if got is None:
        return _needs(answer=_sample(call.args["prompt"]))
    return {"content": [text(f"LLM response: {got['answer']['content'].get('text')}")]}


@made("test_elicitation", _with(message=_TEXT))
async def _elicitation(call: Call) -> dict[str, Json]:
    got = _given(call, "user")
    if got is None:
        said = {"type": "string", "description": "User's response"}
        mail = {"type": "string", "description": "User's email address"}
        return _needs(user=_form(call.args["message"], ("username", "email"), username=said, email=mail))
    return _chosen("User response", got["user"])


def _chosen(what: str, response: Mapping[str, Any]) -> dict[str, Json]:
    said = f"action={response.get('action')}, content={json.dumps(response.get('content'))}"
    return {"content": [text(f"{what}: {said}")]}


@made("test_elicitation_sep1034_defaults")
async def _defaults(call: Call) -> dict[str, Json]:
    got = _given(call, "user")
    if got is not None:
        return _chosen("Elicitation completed", got["user"])
    return _needs(
        user=_form(
            "Look through these values",
            name={"type": "string", "default": "John Doe"},
            age={"type": "integer", "default": 30},
            score={"type": "number", "default": 95.5},
            status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            verified={"type": "boolean", "default": True},
        )
    )


@made("test_elicitation_sep1330_enums")
async def _enums(call: Call) -> dict[str, Json]:
    got = _given(call, "user")
    if got is not None:
        return _chosen("Elicitation completed", got["user"])
    plain = ["option1", "option2", "option3"]
    titled = [
        {"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second", "Third"), 1)
    ]
    named = ["Option One", "Option Two", "Option Three"]
    return _needs(
        user=_form(
            "Choose",
            untitledSingle={"type": "string", "enum": plain},
            titledSingle={"type": "string", "oneOf": titled},
            legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": named},
            untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
            titledMulti={"type": "array", "items": {"anyOf": titled}},
        )
    )


_NAME = _form("What is your name?", ("name",), name=_TEXT)
_OK = _form("Please confirm", ("ok",), ok={"type": "boolean"})


@made("test_input_required_result_elicitation")
async def _asked_name(call: Call) -> dict[str, Json]:
    got = _given(call, "user_name")
    if got is None or "action" not in got["user_name"]:
        return _needs(user_name=_NAME)
    return {"content": [text(f"Hello, {(got['user_name'].get('content') or {}).get('name')}!")]}


@made("test_input_required_result_sampling")
async def _asked_model(call: Call) -> dict[str, Json]:
    got = _given(call, "capital_question")
    if got is None:
        return _needs(capital_question=_sample("What is the capital of France?"))
    return {"content": [text(f"The model says: {json.dumps(got['capital_question'].get('content'))}")]}


@made("test_input_required_result_list_roots")
async def _asked_roots(call: Call) -> dict[str, Json]:
    got = _given(call, "client_roots")
    if got is None:
        return _needs(client_roots=_ROOTS)
    return {"content": [text(f"Roots: {json.dumps(got['client_roots'].get('roots'))}")]}


@made("test_input_required_result_request_state")
async def _kept(call: Call) -> dict[str, Json]:
    if _given(call, "confirm") is None or _state(call) != {"step": "confirm"}:
        return _needs({"step": "confirm"}, confirm=_OK)
    return {"content": [text("state-ok")]}


@made("test_input_required_result_tampered_state")
async def _tampered(call: Call) -> dict[str, Json]:
    return await _kept(call)


@made("test_input_required_result_multiple_inputs")
async def _several(call: Call) -> dict[str, Json]:
    if _given(call, "user_name", "greeting", "client_roots") is None:
        return _needs({"step": 1}, user_name=_NAME, greeting=_sample("Generate a greeting", 50), client_roots=_ROOTS)
    return {"content": [text("All three are there.")]}


@made("test_input_required_result_multi_round")
async def _rounds(call: Call) -> dict[str, Json]:
    state = _state(call) or {"round": 1}
    if state["round"] == 1 and _given(call, "step1") is None:
        return _needs({"round": 1}, step1=_form("Step 1: What is your name?", ("name",), name=_TEXT))
    if _given(call, "step2") is None:
        return _needs({"round": 2}, step2=_form("Step 2: What is your favorite color?", ("color",), color=_TEXT))
    return {"content": [text("Both are answered.")]}


@made("test_input_required_result_capabilities")
async def _whatever(call: Call) -> dict[str, Json]:
    responses = call.args.get("input", {}).get("responses")
    if responses:
        return {"content": [text("Thank you.")]}
    return _needs(user_name=_NAME, greeting=_sample("Generate a greeting", 50), client_roots=_ROOTS)


@made("test_missing_capability")
async def _lacking(call: Call) -> dict[str, Json]:
    return await _asked_model(call)


@made("test_streaming_elicitation")
async def _streamed(call: Call) -> dict[str, Json]:
    call.emit("It asks on the way.\n")
    return await _asked_name(call)


@made("test_logging_tool")
async def _logs(call: Call) -> dict[str, Json]:
    return await _logging(call)


# Resources and prompts, each read by a capability too

_RESOURCES: Mapping[str, Mapping[str, Json]] = {
    "test://static-text": {
        "mimeType": "text/plain",
        "text": "This is the content of the static text resource.",
    },
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "A resource to watch."},
}
_TEMPLATE = re.compile(r"test://template/([^/]+)/data")


@made("read", _with(uri=_TEXT))
async def _read(call: Call) -> dict[str, Json]:
    uri = call.args["uri"]
    found = _TEMPLATE.fullmatch(uri)
    if found is None:
        return {"contents": [{"uri": uri, **_RESOURCES[uri]}]}
    data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
    return {"contents": [{"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}]}


_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}


@made("prompt", _with(name=_TEXT, arguments=_ANY))
async def _prompt(call: Call) -> dict[str, Json]:
    name, args = call.args["name"], call.args["arguments"]
    if name == "test_input_required_result_prompt":
        got = _given(call, "user_context")
        if got is None:
            wanted = _form("What context should the prompt use?", ("context",), context=_TEXT)
            return _needs(user_context=wanted)
        return _messages(text(f"Context: {got['user_context'].get('content')}"))
    if name == "test_prompt_with_arguments":
        return _messages(text(f"Prompt with arguments: arg1='{args.get('arg1')}', arg2='{args.get('arg2')}'"))
    if name == "test_prompt_with_embedded_resource":
        embedded = _resource(args["resourceUri"], "text/plain", "Embedded resource content for testing.")
        return _messages(embedded, text("Please process the embedded resource above."))
    if name == "test_prompt_with_image":
        return _messages(_image(), text("Please analyze the image above."))
    return _messages(text("This is a simple prompt for testing."))


def _messages(*contents: Json) -> dict[str, Json]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


class Shelf:
    """The suite's resources and prompts."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def resources(self, client: Client) -> list[dict[str, Json]]:
        if f"{PREFIX}read" not in granted(self._calls.system, client):
            return []
        return [
            {"uri": uri, "name": uri.rpartition("/")[2], "mimeType": about["mimeType"]}
            for uri, about in _RESOURCES.items()
        ]

    def templates(self, _client: Client) -> list[dict[str, Json]]:
        return [{"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}]

    async def read(self, client: Client, uri: str) -> dict[str, Json] | None:
        if uri not in _RESOURCES and _TEMPLATE.fullmatch(uri) is None:
            return None
        return await self._calls.answer(client, f"{PREFIX}read", {"uri": uri})

    def mark(self, _client: Client, _uri: str) -> str | None:
        return None

    def prompts(self, _client: Client) -> list[dict[str, Json]]:
        return [
            {
                "name": name,
                "description": "A prompt of the conformance suite.",
                "arguments": [{"name": one, "description": "an argument", "required": True} for one in arguments],
            }
            for name, arguments in _PROMPTS.items()
        ]

    async def prompt(
        self, client: Client, name: str, args: Mapping[str, Json], again: Again | None
    ) -> dict[str, Json] | None:
        if name not in _PROMPTS:
            return None
        sent = self._calls.again(client, f"prompt {name}", {"name": name, "arguments": dict(args)}, again)
        return await self._calls.answer(client, f"{PREFIX}prompt", sent)


# The module


def naming(capability: str) -> str:
    """The suite's tools have no module before their names."""
    return capability.removeprefix(PREFIX)


def capabilities() -> list[Capability]:
    """All of them; each waits, so that it may report progress."""
    answer = {"type": "object", "properties": {NEEDS: _ANY}}
    return [
        Capability(f"{PREFIX}{name}", f"{name}, of the conformance suite", Effect.READ, schema, answer, waits=True)
        for name, (_function, schema) in _MADE.items()
    ]


def handlers() -> dict[str, Handler]:
    """Who performs them."""
    return {f"{PREFIX}{name}": _handler(function) for name, (function, _schema) in _MADE.items()}


def _handler(function: Made) -> Handler:
    async def handle(call: Call) -> Answer:
        return Answer(await function(call))

    return handle
