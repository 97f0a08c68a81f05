"""Errors as answers: a status for each, and `{"error": {kind, code, message, remedy, blame}}`."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from loket.contracts import BadInput, LoketError, Refusal


class Busy(Refusal):
    """Not now: too many attempts or too much at once. `wait_s` says when to come again, in seconds."""

    def __init__(self, code: str, message: str, remedy: str, *, wait_s: float) -> None:
        super().__init__(code, message, remedy, blame="owner")
        self.wait_s = wait_s


STATUSES: Mapping[str, int] = {
    "account.exists": 409,
    "account.none": 409,
    "approval.ambiguous": 409,
    "approval.closed": 409,
    "brain.unknown": 404,
    "channel.code": 404,
    "channel.hook": 404,
    "channel.module": 404,
    "channel.sender": 404,
    "channel.signature": 401,
    "channel.unknown": 404,
    "gateway.body": 400,
    "gateway.session": 401,
    "gateway.timeout": 408,
    "gateway.token": 401,
    "gateway.path": 404,
    "gateway.method": 405,
    "gateway.size": 413,
    "gateway.type": 415,
    "gateway.headers": 431,
    "gateway.connections": 503,
    "gateway.stopping": 503,
    "grant.none": 404,
    "hook.size": 413,
    "login.wrong": 401,
    "run.ambiguous": 409,
    "run.finished": 409,
    "run.not_asking": 409,
    "schedule.ambiguous": 409,
    "schedule.busy": 429,
    "schedule.paused": 409,
    "token.exists": 409,
    "tokens.full": 409,
}
"""Codes whose status is not that of their kind."""


def status_of(error: LoketError) -> int:
    """The HTTP status of an error: what its code says, else what is unknown is 404, else by its kind."""
    if isinstance(error, Busy):
        return 429
    if error.code in STATUSES:
        return STATUSES[error.code]
    if error.code.endswith(".unknown") and error.code != "arguments.unknown":
        return 404
    if isinstance(error, BadInput) or error.code.startswith("arguments."):
        return 400
    return 403 if isinstance(error, Refusal) else 500


def answer(error: LoketError, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says it."""
    status = status or status_of(error)
    more = {**(headers or {}), **({"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {})}
    if isinstance(error, Busy):
        more["Retry-After"] = str(math.ceil(error.wait_s))
    return Response(body(error), status, more, "application/json")


def body(error: LoketError) -> bytes:
    """The error as JSON; half a surrogate pair that came in is written as an escape."""
    shown = {**error.as_dict(), **({"run": error.run} if error.run else {})}
    return json.dumps({"error": shown}).encode()
