"""Settings (`config.toml` of the home), decoded into types once. An unknown key is an error."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from loket.contracts import BadInput
from loket.home import DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its place in the file, type, default and meaning (`docs/operations.md` is tested against these)."""

    key: str
    kind: type
    default: float | bool | str | None
    about: str
    least: int = 0
    field: str = ""
    """Its name in `Config`; left out, the last part of the key."""
    words: tuple[str, ...] = ()
    """What a text may be; any text where none are named."""

    @property
    def name(self) -> str:
        """Its name in `Config`."""
        return self.field or self.key.rpartition(".")[2]


SETTINGS = (
    Setting("server.port", int, DEFAULT_PORT, "port on loopback", 1),
    Setting("server.workers", int, 4, "threads that run modules at the same time", 1),
    Setting("limits.tokens_per_day", int, None, "model tokens of all agents in a day (UTC); no bound if left out"),
    Setting("limits.money_per_day", float, None, "US dollars of all agents in a day (UTC); no bound if left out"),
    Setting("limits.calls_per_minute", int, None, "calls in any minute; no bound if left out", 1),
    Setting("limits.calls_per_hour", int, None, "calls in any hour; no bound if left out", 1),
    Setting("limits.calls_per_day", int, None, "calls in a day (UTC); no bound if left out", 1),
    Setting("limits.mb_per_day", float, None, "MiB of arguments and answers in a day (UTC); no bound if left out"),
    Setting("limits.cpu_s_per_day", float, None, "seconds that modules compute in a day (UTC); no bound if left out"),
    Setting("limits.runs", int, None, "runs that are unfinished at the same time; no bound if left out", 1),
    Setting("limits.run_wall_s", float, None, "seconds from a run's start to its end; no bound if left out", 1),
    Setting("limits.run_cpu_s", float, None, "seconds that a run computes, all its segments; no bound if left out"),
    Setting("limits.run_mb", float, None, "MiB of arguments and answers of one run; no bound if left out"),
    Setting("limits.repeats", int, 5, "times that the same call may fail in a row before its run ends", 2),
    Setting("limits.open_brains", int, 64, "brains that are open at the same time", 1),
    Setting("vault.keyring", bool, False, "keep the master key in the system's keyring", field="vault_keyring"),
    Setting("brains.encrypted", bool, False, "encrypt what agents remember at rest", field="brains_encrypted"),
    Setting("approvals.timeout_h", float, 72, "hours in which you answer what is asked", field="approval_timeout_h"),
    Setting(
        "approvals.headless",
        str,
        "ask",
        "`ask`, or `deny` where nobody can be asked",
        field="approval_headless",
        words=("ask", "deny"),
    ),
    Setting("share.listen", str, None, "address beyond loopback, such as `0.0.0.0:1988`; none if left out"),
    Setting("share.names", str, None, "names and addresses that clients know this machine by, with commas"),
    Setting("share.certificate", str, None, "your own certificate, PEM; one of the home's own if left out"),
    Setting("share.key", str, None, "its key, PEM"),
    Setting("approvals.open", int, 100, "questions of one agent that wait at the same time", 1, "approval_open"),
)

_BY_KEY = {setting.key: setting for setting in SETTINGS}

_NO_BOUND = ("limits.open_brains", "limits.repeats")
_BOUNDS = frozenset(s.name for s in SETTINGS if s.key.startswith("limits.") and s.key not in _NO_BOUND)
HOLDERS = ("agents", "principals", "roles")
"""Whom a bound can be set for beside all together: the tables below `[limits]`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The decoded settings.

    `models` is the table of that name, read by the model provider; `retention` says by agent (`*`: all others) after
    how many days what was said is erased. `redaction`, `confidential` and `exec` are read by those who carry
    them out.
    """

    port: int = DEFAULT_PORT
    workers: int = 4
    tokens_per_day: int | None = None
    money_per_day: float | None = None
    open_brains: int = 64
    vault_keyring: bool = False
    brains_encrypted: bool = False
    approval_timeout_h: float = 72
    approval_headless: str = "ask"
    approval_open: int = 100
    repeats: int = 5
    listen: str | None = None
    names: str | None = None
    certificate: str | None = None
    key: str | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    retention: Mapping[str, int] = field(default_factory=dict)
    redaction: Mapping[str, Any] = field(default_factory=dict)
    confidential: Mapping[str, Any] = field(default_factory=dict)
    exec: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    """What `[limits]` bounds for all together beside tokens and money, by setting."""
    bounds_of: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """What the tables below it bound: by `HOLDERS`, by name, by setting."""


_FIELDS = frozenset(one.name for one in fields(Config))


def load_config(path: Path) -> Config:
    """Read a settings file; a missing one gives the defaults. Raises `BadInput` that names the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput("config.unreadable", f"{path} cannot be read: {error}", "mend the file") from None
    values: dict[str, Any] = {}
    for section, content in table.items():
        if section == "models":
            values["models"] = _table(content, section)
            continue
        if section in ("redaction", "confidential", "exec"):
            values[section] = _table(content, section)
            continue
        if section == "retention":
            values["retention"] = _retention(_table(content, section), path)
            continue
        if section == "limits":
            values |= _limits(_table(content, section), path)
            continue
        for name, value in _table(content, section).items():
            setting = _known(f"{section}.{name}", path)
            values[setting.name] = _checked(setting, value, path)
    return Config(**values)


def _limits(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What `[limits]` sets, and the tables below it."""
    values: dict[str, Any] = {}
    bounds: dict[str, float] = {}
    bounds_of: dict[str, dict[str, dict[str, float]]] = {}
    for name, value in content.items():
        if name in HOLDERS:
            inner = _table(value, f"limits.{name}")
            bounds_of[name] = {who: _bounds(one, f"{name}.{who}", path) for who, one in inner.items()}
            continue
        setting = _known(f"limits.{name}", path)
        checked = _checked(setting, value, path)
        (values if setting.name in _FIELDS else bounds)[setting.name] = checked
    return {**values, "bounds": bounds, "bounds_of": bounds_of}


def _bounds(content: Any, holder: str, path: Path) -> dict[str, float]:
    """What a table below `[limits]` sets: any setting of `[limits]` that bounds something."""
    bounds: dict[str, float] = {}
    for name, value in _table(content, f"limits.{holder}").items():
        setting = _known(f"limits.{name}", path)
        if setting.name not in _BOUNDS:
            raise BadInput(
                "config.unknown",
                f"{path} sets {name} under [limits.{holder}], and that is one for all",
                f"write it under [limits]; a table below takes {', '.join(sorted(_BOUNDS))}",
            )
        bounds[name] = _checked(replace(setting, key=f"limits.{holder}.{name}"), value, path)
    return bounds


def _table(content: Any, section: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise BadInput("config.type", f"{section} must be a table", f"write [{section}] and its settings below it")
    return content


def _retention(content: Mapping[str, Any], path: Path) -> dict[str, int]:
    for agent, days in content.items():
        if not isinstance(days, int) or isinstance(days, bool) or days < 1:
            raise BadInput(
                "config.type",
                f"retention.{agent} in {path} is {days!r}, and a whole number of days of at least 1 is needed",
                f"{agent} = 90",
            )
    return dict(content)


def _known(key: str, path: Path) -> Setting:
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = difflib.get_close_matches(key, _BY_KEY, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"settings are {', '.join(_BY_KEY)} and the tables [models], [retention], [redaction] and [confidential]"
    )
    raise BadInput("config.unknown", f"{path} has an unknown setting {key}", hint)


def _checked(setting: Setting, value: Any, path: Path) -> Any:
    if setting.kind is bool:
        if isinstance(value, bool):
            return value
        raise BadInput(
            "config.type",
            f"{setting.key} in {path} is {value!r}, and true or false is needed",
            f"it means: {setting.about}",
        )
    if setting.kind is str:
        if value in setting.words or (not setting.words and isinstance(value, str) and value):
            return value
        words = " or ".join(f'"{word}"' for word in setting.words) or "a text"
        raise BadInput(
            "config.type", f"{setting.key} in {path} is {value!r}, and {words} is needed", f"it means: {setting.about}"
        )
    fits = isinstance(value, (int, float) if setting.kind is float else int) and math.isfinite(value)
    if isinstance(value, bool) or not fits or value < setting.least:
        kind = "number" if setting.kind is float else "whole number"
        raise BadInput(
            "config.type",
            f"{setting.key} in {path} is {value!r}, and a {kind} of at least {setting.least:g} is needed",
            f"it means: {setting.about}",
        )
    return value
