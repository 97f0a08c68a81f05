"""The description of the API (OpenAPI 3.1), made from the table that requests are checked by."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Endpoint
from loket.gateway.sessions import COOKIE

VERSION = "1.0"
"""Of the API, not of Loket: what is described under `/v1` only grows."""

_SECURITY: dict[Access, list[dict[str, list[str]]]] = {
    Access.OPEN: [],
    Access.ANY: [{"session": []}, {"token": []}, {"home": []}],
    Access.OWNER: [{"session": []}, {"home": []}],
    Access.HOME: [{"home": []}],
}

_SCHEMES = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "POST /v1/session. Requests that change something need an `Origin` of this server.",
    },
    "token": {"type": "http", "scheme": "bearer", "description": "`loket token create NAME`"},
    "home": {"type": "http", "scheme": "bearer", "description": "the contents of the file `token` in the home"},
}

_ALWAYS = (400, 403, 408, 431, 500)
"""Errors that any route may answer with: 403 for a foreign host or origin."""


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The description of these endpoints."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loket",
            "version": VERSION,
            "summary": "Agents, their runs and their grants, on this machine alone",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": _SCHEMES,
            "schemas": {"Error": shapes.ERROR},
            "responses": {_error_name(status): _error(status) for status in _statuses(endpoints)},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "security": _SECURITY[endpoint.access],
        "parameters": [
            *({"name": n, "in": "path", "required": True, "schema": s} for n, s in endpoint.params.items()),
            *({"name": n, "in": "query", "schema": s} for n, s in endpoint.query.items()),
        ],
        "responses": _responses(endpoint),
    }
    if endpoint.raw:
        described["requestBody"] = {"required": False, "content": {"*/*": {"schema": {}}}}
    if endpoint.body is not None:
        content = {"application/json": {"schema": endpoint.body}}
        described["requestBody"] = {"required": not endpoint.loose, "content": content}
    return described


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            **({"content": {"application/json": {"schema": schema}}} if schema is not None else {}),
        }
        for status, schema in endpoint.answers.items()
    }
    if endpoint.stream is not None:
        kind = "text/event-stream" if endpoint.stream is shapes.EVENTS else "application/x-ndjson"
        entry = found.setdefault("200", {"description": HTTPStatus.OK.phrase})
        entry["content"] = {**entry.get("content", {}), kind: {"schema": endpoint.stream}}
    for status in errors_of(endpoint):
        found[str(status)] = {"$ref": f"#/components/responses/{_error_name(status)}"}
    return found


def errors_of(endpoint: Endpoint) -> list[int]:
    """The statuses of all errors that an endpoint may answer with."""
    signed = () if endpoint.access is Access.OPEN else (401,)
    sent = () if endpoint.body is None else (413,) if endpoint.loose else (413, 415)
    sent = (413,) if endpoint.raw else sent
    return sorted({*_ALWAYS, *signed, *sent, *endpoint.errors} - endpoint.answers.keys())


def _statuses(endpoints: Iterable[Endpoint]) -> list[int]:
    return sorted({status for endpoint in endpoints for status in errors_of(endpoint)})


def _error_name(status: int) -> str:
    return HTTPStatus(status).name.title().replace("_", "")


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}
