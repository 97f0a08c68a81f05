"""Which models there are and in which order they are asked: the table `[models]` of `config.toml`, decoded once.

[models]
chain = ["gpt", "embedded"]

[models.routes.gpt]
preset = "openai"
model = "gpt-5-mini"
key = "openai"

[models.routes.embedded]
kind = "embedded"
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from loket.contracts import BadInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOCAL_CONTEXT = 8_192
_CLOUD_CONTEXT = 128_000


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a model.

    `kind` is `openai` (an endpoint that speaks OpenAI's chat completions) or `embedded` (a GGUF file in a process of
    our own; `model` is then the file's name in the home's `models/`, empty for the stock one). `key` names the secret
    in the vault. `context` in tokens; prices in US dollars for a million tokens; `timeout_s` bounds one attempt, in
    seconds; `retries` come after the first attempt.
    """

    name: str
    kind: str = "openai"
    base_url: str = ""
    model: str = ""
    key: str | None = None
    local: bool = False
    tools: bool = True
    context: int = _LOCAL_CONTEXT
    price_in: float = 0.0
    price_out: float = 0.0
    timeout_s: float = 120.0
    retries: int = 2


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """All routes, and the names of those that are asked, in that order, until one answers."""

    routes: tuple[Route, ...] = ()
    chain: tuple[str, ...] = ()

    def ordered(self) -> tuple[Route, ...]:
        """List the routes of the chain, in its order."""
        by_name = {route.name: route for route in self.routes}
        return tuple(by_name[name] for name in self.chain)


PRESETS: Mapping[str, str] = {
    "ollama": "http://127.0.0.1:11434/v1",
    "lmstudio": "http://127.0.0.1:1234/v1",
    "llamacpp": "http://127.0.0.1:8080/v1",
    "vllm": "http://127.0.0.1:8000/v1",
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
}
"""Base URL of each server and service that needs no other setting than `model` (and `key`)."""

EMBEDDED = Route("embedded", kind="embedded", local=True, tools=False, context=4_096, timeout_s=240.0, retries=1)
"""The embedded model's route where the settings say nothing else."""

_KINDS = ("openai", "embedded")
_TYPES: Mapping[str, type] = {
    "preset": str,
    "kind": str,
    "base_url": str,
    "model": str,
    "key": str,
    "local": bool,
    "tools": bool,
    "context": int,
    "price_in": float,
    "price_out": float,
    "timeout_s": float,
    "retries": int,
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "context": (256, 10_000_000),
    "price_in": (0, 100_000),
    "price_out": (0, 100_000),
    "timeout_s": (0.05, 300),
    "retries": (0, 10),
}
_WORDS: Mapping[type, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def parse_routes(table: Mapping[str, Any]) -> LlmSettings:
    """Decode the table `models`: `chain` (list of route names; all routes in their order if left out) and `routes`.

    Raises `BadInput` that names the field (`models.routes.gpt.timeout_s`), what is wrong and the remedy.
    """
    for name in table:
        if name not in ("chain", "routes"):
            raise _wrong(f"models.{name}", "is no setting", "write `chain = [...]` or `[models.routes.NAME]`")
    raw = table.get("routes", {})
    if not isinstance(raw, Mapping):
        raise _wrong(
            "models.routes", "must be a table of routes", "write `[models.routes.NAME]` and its settings below"
        )
    routes = tuple(_route(name, value) for name, value in raw.items())
    embedded = [route.name for route in routes if route.kind == "embedded"]
    if len(embedded) > 1:
        raise _wrong(f"models.routes.{embedded[1]}.kind", "is a second embedded model", "keep one embedded route")
    return LlmSettings(routes, _chain(table.get("chain"), routes))


def _chain(value: Any, routes: tuple[Route, ...]) -> tuple[str, ...]:
    names = [route.name for route in routes]
    if value is None:
        return tuple(names)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _wrong("models.chain", "must be a list of route names", 'write for example `chain = ["embedded"]`')
    for place, name in enumerate(value):
        if name not in names:
            known = f"routes are {', '.join(names)}" if names else "there are no routes"
            raise _wrong(f"models.chain[{place}]", f"names no route: {name!r}", f"{known}; add [models.routes.{name}]")
        if name in value[:place]:
            raise _wrong(f"models.chain[{place}]", f"repeats {name!r}", "name each route once")
    return tuple(value)


def _route(name: str, value: Any) -> Route:
    where = f"models.routes.{name}"
    if not _NAME.fullmatch(name):
        raise _wrong(where, "has a name that cannot be used", "use letters, digits, `_`, `.` and `-`, at most 64")
    if not isinstance(value, Mapping):
        raise _wrong(where, "must be a table", f"write [{where}] and its settings below it")
    given = {key: _checked(f"{where}.{key}", key, item) for key, item in value.items()}
    kind = given.get("kind", "openai")
    if kind not in _KINDS:
        raise _wrong(f"{where}.kind", f"is {kind!r}", f"use one of {', '.join(_KINDS)}")
    return _embedded(name, where, given) if kind == "embedded" else _endpoint(name, where, given)


def _checked(where: str, key: str, value: Any) -> Any:
    if key not in _TYPES:
        raise _wrong(where, "is no setting of a route", f"settings are {', '.join(_TYPES)}")
    kind: Any = _TYPES[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise _wrong(where, f"must be {_WORDS[kind]}, not {value!r}", f"write {key} as {_WORDS[kind]}")
    if key in _RANGES:
        least, most = _RANGES[key]
        if not least <= value <= most:
            raise _wrong(where, f"is {value}", f"use {least:g} to {most:g}")
    return value


def _embedded(name: str, where: str, given: dict[str, Any]) -> Route:
    for key in ("preset", "base_url", "key", "local", "price_in", "price_out"):
        if key in given:
            raise _wrong(f"{where}.{key}", "does not apply to an embedded model", "remove the line")
    stock = {field.name: getattr(EMBEDDED, field.name) for field in fields(EMBEDDED)}
    return Route(**{**stock, **given, "name": name})


def _endpoint(name: str, where: str, given: dict[str, Any]) -> Route:
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise _wrong(f"{where}.preset", f"is {preset!r}", f"use one of {', '.join(PRESETS)}")
    url = given.get("base_url") or PRESETS.get(preset or "", "")
    if not url:
        raise _wrong(f"{where}.base_url", "is missing", "write the address that ends in /v1, or a preset")
    if not given.get("model"):
        raise _wrong(f"{where}.model", "is missing", "write the name that the server knows the model by")
    loopback = _check_url(f"{where}.base_url", url, has_key="key" in given)
    context = _LOCAL_CONTEXT if loopback else _CLOUD_CONTEXT
    return Route(**{"local": loopback, "context": context, **given, "name": name, "base_url": url})


def _check_url(where: str, url: str, *, has_key: bool) -> bool:
    """Check an endpoint's address; whether it is this machine's own."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        usable, host = False, None
    if not usable or host is None or parts.query or parts.fragment:
        raise _wrong(where, "is no address of a server", "write it like http://127.0.0.1:11434/v1")
    if parts.username or parts.password:
        raise _wrong(where, "holds a user or a password", "put the key into the vault and name it with `key = ...`")
    loopback = is_loopback(host)
    if has_key and parts.scheme == "http" and not loopback:
        raise _wrong(where, "would send the key unencrypted", "use https, or remove the key")
    return loopback


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine: `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _wrong(field: str, what: str, remedy: str) -> BadInput:
    return BadInput("models.settings", f"{field} {what}", remedy)
