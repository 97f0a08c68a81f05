"""Looks a home over, and mends what is safe to mend. Works beside a running system and without one.

Nothing is changed without `fix`, and with it nothing that somebody wrote: only rights, what a crash left behind, and
what can be made again from its source.
"""

from collections.abc import Callable, Iterator
from typing import Any

from loket.config import Config, load_config
from loket.contracts import LoketError
from loket.doctor import data, place, programs
from loket.doctor.check import FAILED, OK, Check, Patient, failed, sound
from loket.home import Home
from loket.kernel.journal import Journal
from loket.store.agents import AgentDatabases

_CHECKS: tuple[tuple[str, Callable[[Patient], Iterator[Check]]], ...] = (
    ("versions", programs.versions),
    ("home", place.home),
    ("permissions", place.permissions),
    ("server", place.server),
    ("port", place.port),
    ("disk", place.disk),
    ("leftovers", place.leftovers),
    ("databases", data.databases),
    ("brains", data.brains),
    ("journal", data.journal),
    ("erasures", data.erasures),
    ("clock", data.clock),
    ("vault", data.vault),
    ("modules", programs.modules),
    ("sandbox", programs.sandboxes),
    ("cache", programs.cache),
    ("models", programs.models),
)


def examine(
    home: Home,
    *,
    brains: AgentDatabases | None = None,
    journal: Journal | None = None,
    fix: bool = False,
    port: int | None = None,
) -> list[dict[str, Any]]:
    """All checks of a home, worst news not first: in the order in which one would look.

    `brains` and `journal` are those of the system that runs in this process; without them nobody may hold the home.
    `port` is the one that goes before that of the settings.

    Each check has `name`, `status` (`ok`, `warning`, `failed`), `detail`, `remedy`, `fixable`, and `fixed`: what `fix`
    did about it.
    """
    checks, config = _config(home)
    patient = Patient(home, config, brains, journal, fix=fix, given_port=port)
    for name, look in _CHECKS:
        if name == "home" or home.root.is_dir():
            checks.extend(_looked(name, look, patient))
    return [check.as_dict() for check in checks]


def all_sound(checks: list[dict[str, Any]]) -> bool:
    """Whether no check failed; warnings do not count."""
    return not any(check["status"] == FAILED for check in checks)


def _config(home: Home) -> tuple[list[Check], Config]:
    try:
        config = load_config(home.config)
    except LoketError as error:
        return [failed("config", error.message, error.remedy)], Config()
    return [sound("config", "config.toml can be read" if home.config.exists() else "no config.toml: defaults")], config


def _looked(name: str, look: Callable[[Patient], Iterator[Check]], patient: Patient) -> list[Check]:
    """One check's findings; what it cannot look at is a finding too."""
    found: list[Check] = []
    try:
        found.extend(look(patient))
    except LoketError as error:
        found.append(failed(name, error.message, error.remedy))
    except OSError as error:
        found.append(failed(name, f"{error.filename or 'a file'} cannot be read: {error.strerror}", "check its rights"))
    return found


__all__ = ["OK", "all_sound", "examine"]
