"""One attempt at an OpenAI-compatible endpoint, through the `openai` client. Import it lazily: that takes a second.

The client reads settings from the environment on its own (organisation, project, extra headers, a key). None of that
may reach an endpoint that the owner did not name it for, so only the headers below are ever sent. Redirects are not
followed: a conversation goes to the host in the settings or nowhere.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI, Omit

from loket.contracts import Json, command
from loket.providers.llm_chat import (
    AttemptFailed,
    Completion,
    Emit,
    quote,
    to_openai,
    tool_call,
    tools_to_openai,
)
from loket.providers.llm_settings import Route

_CONNECT_S = 5.0
_SERVER_ERROR = 500
_RETRIED = frozenset({408, 409, 429})
_KEY_REFUSED = frozenset({401, 403})
_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|maximum context|exceed_context|too many tokens|prompt is too long"
)
_NOT_SUPPORTED = re.compile(r"support|permitted|unknown|unrecognized|unexpected|extra")
_FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}

for _library in ("openai", "httpx2", "httpcore2"):  # their debug logs hold conversations and what servers send back
    logging.getLogger(_library).setLevel(logging.WARNING)


class _Client(AsyncOpenAI):
    @property
    def default_headers(self) -> dict[str, str | Omit]:
        """Only what the protocol needs: nothing about this machine, nothing from the environment."""
        return {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "loket"}


class Endpoint:
    """An endpoint and its connections. `key` is the secret itself; it is sent to this endpoint and shown nowhere."""

    def __init__(self, route: Route, key: str | None) -> None:
        self._route = route
        self._key = key
        self._dropped: set[str] = set()
        """Parameters that this endpoint has refused."""
        self._client = _Client(
            api_key=key or "none",
            base_url=route.base_url,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                trust_env=not route.local,
                timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(self, args: Mapping[str, Json], emit: Emit | None) -> Completion:
        """One attempt, without a bound on time beyond that on connecting (the caller has one).

        `args` are those of `llm.complete`; pieces of the answer go to `emit` where it is set.
        Raises `AttemptFailed`, which holds no reference to the request or the response.
        """
        request = self._request(args, stream=emit is not None)
        while True:
            outcome, adapted = await self._send(request, emit)
            if isinstance(outcome, Completion):
                return outcome
            if not adapted:
                raise outcome
            request = self._request(args, stream=emit is not None)

    def _request(self, args: Mapping[str, Json], *, stream: bool) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._route.model,
            "messages": to_openai(args["messages"]),
            "stream": stream,
            "extra_headers": {} if self._key else {"Authorization": Omit()},
        }
        if args.get("tools"):
            request["tools"] = tools_to_openai(args["tools"])
        if "temperature" in args and "temperature" not in self._dropped:
            request["temperature"] = args["temperature"]
        if "max_tokens" in args:
            name = "max_completion_tokens" if "max_tokens" in self._dropped else "max_tokens"
            request[name] = args["max_tokens"]
        if stream and "stream_options" not in self._dropped:
            request["stream_options"] = {"include_usage": True}
        return request

    async def _send(self, request: dict[str, Any], emit: Emit | None) -> tuple[Completion | AttemptFailed, bool]:
        """Send a request; the outcome, and whether to send it again without a parameter that was refused.

        Errors of the client are turned into values here and raised later, outside of any `except`: an exception's
        context would keep the request, and with it the key, alive.
        """
        adapted = False
        outcome: Completion | AttemptFailed
        try:
            response = await self._client.chat.completions.create(**request)
            outcome = self._whole(response) if emit is None else await self._streamed(response, emit)
        except AttemptFailed as failed:
            outcome = failed.with_traceback(None)
        except openai.APIStatusError as error:
            outcome, adapted = self._status_failure(error), self._adapt(error, request)
        except openai.APIConnectionError:
            outcome = self._unreachable()
        except openai.APIError as error:
            outcome = self._broken_off(error)
        except (httpx2.HTTPError, ValueError, TypeError, AttributeError, LookupError) as error:
            outcome = self._unreadable(error)
        return outcome, adapted

    def _adapt(self, error: openai.APIStatusError, request: Mapping[str, Any]) -> bool:
        """Remember a parameter that this endpoint does not know; whether that is news."""
        if error.status_code not in (400, 422):
            return False
        text = _server_text(error).lower()
        for name in ("stream_options", "max_tokens", "temperature"):
            named = error.param == name or (name in text and _NOT_SUPPORTED.search(text))
            if name in request and name not in self._dropped and named:
                self._dropped.add(name)
                return True
        return False

    def _whole(self, response: Any) -> Completion:
        choice = response.choices[0]
        message = choice.message
        calls = [
            (call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or []
            if call.type in ("function", None)
        ]
        return self._completion(message.content or "", calls, choice.finish_reason, _usage(response))

    async def _streamed(self, stream: Any, emit: Emit) -> Completion:
        text: list[str] = []
        calls: dict[int, list[str]] = {}
        finish: str | None = None
        usage: tuple[int, int] | None = None
        try:
            async for chunk in stream:
                usage = _usage(chunk) or usage
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    _collect(choice.delta, calls)
                    if choice.delta.content:
                        text.append(choice.delta.content)
                        emit(choice.delta.content)
        finally:
            await stream.close()
        return self._completion("".join(text), [(i, n, a) for i, n, a in calls.values()], finish, usage)

    def _completion(
        self,
        text: str,
        raw: list[tuple[str | None, str | None, str | None]],
        finish: str | None,
        usage: tuple[int, int] | None,
    ) -> Completion:
        if finish is None:
            raise AttemptFailed(
                "model.error", f"{self._where}: the answer broke off before its end", "try again", again=True
            )
        if finish not in _FINISHES:
            raise AttemptFailed(
                "model.error",
                f"{self._where}: the server withheld the answer ({quote(finish, self._key)})",
                "say it in other words, or use another model",
                spent=usage or (0, 0),
            )
        calls = [tool_call(place, *call) for place, call in enumerate(raw, 1)]
        if None in calls:
            raise AttemptFailed(
                "model.bad_tool_call",
                f"{self._where}: the model called a tool with arguments that are no JSON object",
                "try again, use a larger model, or set `tools = false` for this route",
                again=True,
                spent=usage or (0, 0),
            )
        kept = tuple(call for call in calls if call is not None)
        tokens_in, tokens_out = usage or (None, None)
        return Completion(text, kept, "tool_calls" if kept else _FINISHES[finish], tokens_in, tokens_out)

    @property
    def _where(self) -> str:
        return f"route {self._route.name} ({self._route.model} at {self._route.base_url})"

    def _status_failure(self, error: openai.APIStatusError) -> AttemptFailed:
        status = error.status_code
        if status in _KEY_REFUSED:
            return self._key_refused(status)
        text = _server_text(error)
        if _TOO_LONG.search(text.lower()):
            return AttemptFailed(
                "model.context",
                f"{self._where}: the conversation is longer than the model can take",
                "send fewer or shorter messages, or use a model with a larger context",
            )
        return AttemptFailed(
            "model.error",
            f"{self._where} answered with status {status}: {quote(text, self._key)}",
            f"`loket model list` shows what the server offers; mend [models.routes.{self._route.name}]",
            again=status in _RETRIED or status >= _SERVER_ERROR,
            after_s=_retry_after(error),
        )

    def _key_refused(self, status: int) -> AttemptFailed:
        what = f"refused the key {self._route.key!r}" if self._key else "wants a key"
        line = command("model", "use", self._route.name, "--key", self._route.key or self._route.name)
        return AttemptFailed(
            "model.refused_key",
            f"{self._where} {what} (status {status})",
            f"`{line or 'loket model use'}` asks for the key and puts it into the vault",
        )

    def _unreachable(self) -> AttemptFailed:
        return AttemptFailed(
            "model.unreachable",
            f"{self._where} cannot be reached",
            "start the server, mend base_url, or add another route: `loket model list`, `loket model pull`",
            again=True,
        )

    def _broken_off(self, error: openai.APIError) -> AttemptFailed:
        """Say that the server reported an error in the middle of a stream."""
        return AttemptFailed(
            "model.error",
            f"{self._where} broke the answer off: {quote(error.message, self._key)}",
            "try again; the server's own log may say more",
            again=True,
        )

    def _unreadable(self, error: Exception) -> AttemptFailed:
        return AttemptFailed(
            "model.error",
            f"{self._where} sent an answer that is no chat completion ({type(error).__name__})",
            f"mend base_url under [models.routes.{self._route.name}]: it ends in /v1 with most servers",
            again=isinstance(error, httpx2.HTTPError),
        )


def _collect(delta: Any, calls: dict[int, list[str]]) -> None:
    """Put the pieces of tool calls together, by their index."""
    for piece in delta.tool_calls or []:
        call = calls.setdefault(piece.index, ["", "", ""])
        call[0] = piece.id or call[0]
        if piece.function is not None:
            call[1] += piece.function.name or ""
            call[2] += piece.function.arguments or ""


def _usage(response: Any) -> tuple[int, int] | None:
    usage = response.usage
    return (max(0, usage.prompt_tokens or 0), max(0, usage.completion_tokens or 0)) if usage else None


def _server_text(error: openai.APIStatusError) -> str:
    """Collect what the server said, with its code and type, for matching."""
    body = error.body
    if isinstance(body, dict):
        return " ".join(str(body[part]) for part in ("message", "detail", "error", "type", "code") if body.get(part))
    return str(body) if body else ""


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds of the header `Retry-After` (RFC 9110, 10.2.3), where it holds a number."""
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
