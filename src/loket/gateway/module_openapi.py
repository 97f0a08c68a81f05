"""Tools and skills over HTTP: a description of each module (OpenAPI 3.1), made from its schemas, and its operations.

    GET  /modules/inventory/openapi.json
    POST /modules/inventory/lookup          {"sku": "XYZ-900", "location": "WH-A"}

Every operation goes through the counter. An API token may call what only reads; the rest is for the owner.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from loket.gateway import shapes
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, unheard
from loket.gateway.shapes import ANY_OBJECT, text

_MODULE = {"module": text(64, "the module's id")}
_ERRORS = {
    "400": "The arguments do not fit",
    "401": "Nobody was let in",
    "403": "It is not allowed",
    "404": "There is no such operation",
    "500": "It failed",
}


def document(module: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a module: `id`, `version`, `summary` and `operations` as `tools.describe` gives them."""
    schemas: dict[str, Any] = {"Error": shapes.ERROR}
    paths: dict[str, Any] = {}
    for one in module["operations"]:
        for part in ("arguments", "answer"):
            name = f"{one['name']}.{part}"
            schemas[name] = moved(one[part], f"#/components/schemas/{name}")
        paths[f"/modules/{module['id']}/{one['name']}"] = {"post": _operation(module["id"], one)}
    return {
        "openapi": "3.1.0",
        "info": {"title": module["id"], "version": module["version"], "summary": module["summary"]},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "an API token"}},
        },
    }


def _operation(module: str, one: Mapping[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "operationId": f"{module}.{one['name']}",
        "summary": one["summary"],
        "security": [{"token": []}],
        "x-loket-effect": one["effect"],
        "requestBody": {"required": True, "content": _content(f"{one['name']}.arguments")},
        "responses": {
            "200": {"description": "The answer", "content": _content(f"{one['name']}.answer")},
            **{status: {"description": said, "content": error} for status, said in _ERRORS.items()},
        },
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def moved(schema: Any, place: str) -> Any:
    """A JSON Schema as it stands at a place of a larger document: what refers to its own root refers to that place.

    A part with an `$id` is a document of its own, and stays as it is.
    """
    if isinstance(schema, list):
        return [moved(part, place) for part in schema]
    if not isinstance(schema, Mapping) or "$id" in schema:
        return schema
    found = {key: moved(part, place) for key, part in schema.items() if key != "$schema"}
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        found["$ref"] = f"{place}{reference[1:]}"
    return found


async def _described(services: Services, asked: Asked) -> Response:
    return answered(document(await services.perform("tools.describe", {"module": asked.params["module"]}, unheard)))


async def _called(services: Services, asked: Asked) -> Response:
    visitor = asked.visitor
    program = visitor is None or visitor.kind == "token"
    args = {**asked.params, "args": asked.body, "reads": program}
    return answered(await services.perform("tools.call", args, unheard))


ROUTES = (
    Endpoint(
        "GET",
        "/modules/{module}/openapi.json",
        "describeModule",
        "A tool's or a skill's operations, as OpenAPI 3.1",
        _described,
        params=_MODULE,
        answers={200: ANY_OBJECT},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/modules/{module}/{operation}",
        "callModule",
        "Run an operation of a tool or a skill, through the counter; the body has its arguments",
        _called,
        params={**_MODULE, "operation": text(64, "the operation's name")},
        body=ANY_OBJECT,
        answers={200: ANY_OBJECT},
        errors=(404, 409),
    ),
)
