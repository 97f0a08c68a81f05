"""Choosing models: what there is, which is used, and the settings that say so. Written into `config.toml`."""

import tomllib
from collections.abc import Callable, Sequence
from typing import Any

from loket.app import Loket
from loket.config import load_config
from loket.contracts import BadInput
from loket.durable import write_private
from loket.home import Home
from loket.providers.llm import LlmProvider
from loket.providers.llm_choice import embedded_model, model_settings
from loket.providers.llm_discover import discover, find_embedded, pull
from loket.providers.llm_settings import PRESETS, LlmSettings, Route, parse_routes

_DEFAULTS = Route("")


async def listed(system: Loket) -> dict[str, Any]:
    """The routes with the chain's order, servers found on this machine, and whether the embedded model is there."""
    settings = _provider(system).settings
    order = {name: place for place, name in enumerate(settings.chain, 1)}
    embedded = find_embedded(system.home.root)
    return {
        "models": [
            {
                "name": route.name,
                "kind": route.kind,
                "model": route.model or (embedded.stem if embedded and route.kind == "embedded" else ""),
                "base_url": route.base_url,
                "local": route.local,
                "tools": route.tools,
                "context": route.context,
                "used": order.get(route.name),
            }
            for route in settings.routes
        ],
        "found": [{"name": f.name, "base_url": f.base_url, "models": list(f.models)} for f in await discover()],
        "embedded": str(embedded) if embedded else None,
        "presets": dict(PRESETS),
    }


async def use(system: Loket, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """Use these routes, in this order; `options` (`model`, `base_url`, ...) are settings of the first.

    Raises `BadInput` that names the setting; the file is then as it was.
    """
    document = _document(system.home)
    models = document.setdefault("models", {})
    routes = models.setdefault("routes", {})
    if not routes:
        routes.update({route.name: _as_table(route) for route in _provider(system).settings.routes})
    for name in names:
        if name not in routes:
            routes[name] = _fresh(name, options if name == names[0] else {})
    routes[names[0]].update(options)
    models["chain"] = list(names)
    parse_routes(_plain(models))
    _write(system.home, document)
    await reload(system)
    return await listed(system)


def _fresh(name: str, options: dict[str, Any]) -> dict[str, Any]:
    if name == "embedded":
        return {"kind": "embedded"}
    if name in PRESETS:
        return {"preset": name}
    if "base_url" in options:
        return {"kind": "openai"}
    raise BadInput(
        "model.unknown",
        f"there is no model route {name!r}",
        f"give --base-url and --model, or one of: embedded, {', '.join(PRESETS)}",
    )


def _as_table(route: Route) -> dict[str, Any]:
    """A route as a table of settings, what is at its default left out."""
    if route.kind == "embedded":
        return {"kind": "embedded", **({"model": route.model} if route.model else {})}
    fields = ("base_url", "model", "key", "tools", "context", "price_in", "price_out", "timeout_s", "retries")
    given = {field: getattr(route, field) for field in fields if getattr(route, field) != getattr(_DEFAULTS, field)}
    return {"kind": "openai", **given}


def _document(home: Home) -> Any:
    import tomlkit

    try:
        return tomlkit.parse(home.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return tomlkit.document()


def _plain(models: Any) -> dict[str, Any]:
    import tomlkit

    return dict(tomllib.loads(tomlkit.dumps({"models": models}))["models"])


def _write(home: Home, document: Any) -> None:
    import tomlkit

    write_private(home.config, tomlkit.dumps(document).encode())


async def reload(system: Loket) -> None:
    """Read the models' settings again; calls in flight end on the ones they started with."""
    home = system.home
    settings: LlmSettings = await model_settings(home.root, load_config(home.config).models)
    await _provider(system).reconfigure(settings, embedded_model(home.root, settings, home.logs / "model.log"))


async def fetch(system: Loket, progress: Callable[[dict[str, Any]], None], source: str | None) -> dict[str, Any]:
    """Put a model file into the home and make it known."""
    from pathlib import Path

    def told(step: str, share: float | None) -> None:
        progress({"type": "progress", "step": step, "done": share or 0.0, "total": 1.0 if share is not None else None})

    path = await pull(system.home.root, told, Path(source) if source else None)
    await reload(system)
    return {"path": str(path)}


def _provider(system: Loket) -> LlmProvider:
    if not isinstance(system.llm, LlmProvider):
        raise BadInput(
            "model.fixed", "this system's model provider cannot be set", "start Loket without one of its own"
        )
    return system.llm
