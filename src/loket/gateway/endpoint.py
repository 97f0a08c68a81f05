"""One row of the table of routes: what the gateway checks of a request, and what the API's description says of it."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from loket.contracts import BadInput, Failed
from loket.gateway.access import Access, Doorkeeper, Visitor
from loket.gateway.accounts import Accounts
from loket.gateway.sessions import Sessions, Tokens
from loket.gateway.shapes import Schema
from loket.gateway.sse import Perform, Work

BODY_LIMIT = 8 << 20
"""Bytes of a request's body."""

_DRAINED = 4 * BODY_LIMIT
"""Bytes that are read of a body before its connection is given up."""

_SAID = 300
"""Characters of what a schema says about a wrong value."""

CompileCheck: TypeAlias = Callable[[Mapping[str, Any]], Callable[[Any], str | None]]
"""Makes of a JSON Schema a function that says what is wrong with a value, or None."""


@dataclass(frozen=True, slots=True)
class Api:
    """What the API for programs and browsers needs beyond operations."""

    accounts: Accounts
    sessions: Sessions
    tokens: Tokens
    compile_check: CompileCheck


@dataclass(frozen=True, slots=True)
class Services:
    """What endpoints work with."""

    perform: Perform
    ready: Callable[[], bool]
    doorkeeper: Doorkeeper
    start: Callable[[Work], Work]
    """Keeps an operation that is streamed, until it ends or the server stops."""
    document: Callable[[], Schema]
    api: Api | None = None

    @property
    def people(self) -> Api:
        """Account, sessions and tokens. Raises `Failed` where only commands are served."""
        if self.api is None:
            raise Failed("gateway.commands", "this server serves commands alone", "loket up", blame="machine")
        return self.api


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in, decoded: the parameters of its path and query, and its body."""

    request: Request
    visitor: Visitor | None
    params: dict[str, Any]
    body: dict[str, Any]

    @property
    def args(self) -> dict[str, Any]:
        """Parameters and body together; their names differ."""
        return {**self.params, **self.body}


Does: TypeAlias = Callable[[Services, Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. `path` names its parameters in braces, `query` has a schema for each, `body` is one.

    `answers` has the schema of each good status, `errors` the statuses that the others in the table do not have.
    """

    method: str
    path: str
    name: str
    summary: str
    does: Does
    access: Access = Access.ANY
    door: str = "api"
    """What a token has to be made for, where it is not made for all."""
    params: Mapping[str, Schema] = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    loose: bool = False
    """Whether the body may have any type, and may be left out: the command line's door."""
    raw: bool = False
    """Whether the body is taken as bytes, of whatever type: `raw` in what the endpoint gets."""
    secret: bool = False
    """Whether the body holds a secret, which no error may repeat."""
    answers: Mapping[int, Schema | None] = field(default_factory=dict)
    stream: Schema | None = None
    """What it answers with `text/event-stream`."""
    errors: tuple[int, ...] = ()


class Decoder:
    """Reads the arguments of an endpoint, strictly."""

    def __init__(self, endpoint: Endpoint, compile_check: CompileCheck) -> None:
        self._endpoint = endpoint
        named = {"properties": {**endpoint.params, **endpoint.query}}
        self._check_named = compile_check(named)
        self._check_body = compile_check(endpoint.body) if endpoint.body is not None else None

    async def read(self, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of path and query, and the body. Raises `BadInput`: `arguments.*`, or `gateway.*` for a body."""
        args: dict[str, Any] = dict(request.path_params)
        for name, value in request.query_params.multi_items():
            if name not in self._endpoint.query or name in args:
                known = ", ".join(self._endpoint.query) or "none"
                said = "is there twice" if name in args else "is not known"
                raise BadInput("arguments.unknown", f"the parameter {name[:80]!r} {said}", f"known: {known}")
            args[name] = _typed(name, value, self._endpoint.query[name])
        self._must_fit(self._check_named(args))
        return args, await self._body(request)

    async def _body(self, request: Request) -> dict[str, Any]:
        endpoint = self._endpoint
        if endpoint.body is not None and not endpoint.loose:
            _check_type(request)
        data = await received(request)
        if endpoint.raw:
            return {"raw": data}
        if endpoint.body is None:
            if data.strip() not in (b"", b"{}"):
                raise BadInput("gateway.body", f"{endpoint.method} {endpoint.path} takes no body", "send none")
            return {}
        value = _object(data or (b"{}" if endpoint.loose else b""))
        if self._check_body is not None:
            self._must_fit(self._check_body(value))
        return value

    def _must_fit(self, wrong: str | None) -> None:
        if wrong is None:
            return
        if self._endpoint.secret:
            fields = ", ".join((self._endpoint.body or {})["properties"])
            wrong = f"the body does not fit; its fields are {fields}"
        raise BadInput("arguments.invalid", wrong[:_SAID], f"see {self._endpoint.name} in /openapi.json")


def _typed(name: str, text: str, schema: Schema) -> Any:
    """A parameter as its schema's type."""
    if schema["type"] != "integer":
        return text
    if not re.fullmatch(r"-?[0-9]{1,15}", text, re.ASCII):
        raise BadInput("arguments.type", f"{name} is no whole number: {text[:80]!r}", f"{name}=20")
    return int(text)


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadInput(
            "gateway.type", f"the body's type is {kind[:80] or 'not said'}", "send `Content-Type: application/json`"
        )


async def received(request: Request) -> bytes:
    """The body. Raises `BadInput` (`gateway.size`) where it is too large.

    Of what is too large some more is read and thrown away: a client that still sends would not see the answer.
    """
    said = request.headers.get("content-length", "")
    too_large = BadInput("gateway.size", f"the body is larger than {BODY_LIMIT >> 20} MiB", "send less")
    if said.isdigit() and int(said[:20]) > _DRAINED:
        raise too_large
    data, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= BODY_LIMIT:
            data += chunk
        elif size > _DRAINED:
            break
    if size > BODY_LIMIT:
        raise too_large
    return bytes(data)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=_no_constant)
        # half a surrogate pair can be written nowhere, nor what is read as infinite (1e999)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput("gateway.body", f"the body is no JSON: {_safe(error)}", "send a JSON object") from None
    if not isinstance(value, dict):
        raise BadInput("gateway.body", "the body is no JSON object", 'send an object such as {"agent": "main"}')
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _safe(error: Exception) -> str:
    """What is wrong with a text, without the text: it may hold a password."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it holds what no JSON text may hold"


def through(operation: str) -> Does:
    """An endpoint that is one operation with the same arguments."""

    async def does(services: Services, asked: Asked) -> Response:
        return answered(await services.perform(operation, asked.args, unheard))

    return does


def answered(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON; half a surrogate pair, which a module may say, is an escape."""
    return Response(json.dumps(value).encode(), status, headers, "application/json")


def unheard(_event: dict[str, Any]) -> None:
    """Nobody watches."""
