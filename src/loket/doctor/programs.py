"""What runs: versions, modules with their compiled code, models."""

import hashlib
import json
import platform
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from loket import __version__
from loket.contracts import LoketError, Refusal, command
from loket.doctor.check import WARNING, Check, Patient, failed, mendable, mended, sound, warning
from loket.packages.install import read_installed, wasm_of
from loket.providers.llm_discover import find_embedded
from loket.providers.llm_settings import Route, parse_routes
from loket.store.check import query_file

_OLDEST = (3, 11)
_PROBE_S = 2.0


def versions(_patient: Patient) -> Iterator[Check]:
    """What Loket runs on."""
    import apsw

    said = f"Loket {__version__}, Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}"
    try:
        engine = version("wasmtime")
    except PackageNotFoundError:
        yield failed("versions", f"{said}, and no wasmtime", "make up")
        return
    if sys.version_info < _OLDEST:
        yield failed("versions", said, "use Python 3.11 or newer")
    else:
        yield sound("versions", f"{said}, wasmtime {engine}")


def modules(patient: Patient) -> Iterator[Check]:
    """Each installed module is complete, and its bytes are those that were accepted."""
    home = patient.home
    rows = query_file(home.database, "SELECT id, folder, digest FROM modules") if home.database.exists() else []
    bad = 0
    for name, folder, digest in rows:
        wrong = _module(home.root / folder, home.modules, digest)
        if wrong is not None:
            bad += 1
            line = command("remove", name) or "loket remove MODULE"
            yield failed("modules", f"{name}: {wrong}", f"install it again: loket install DIR (or {line})")
    if not bad:
        yield sound("modules", f"{len(rows)} modules are complete")


def _module(folder: Path, modules_folder: Path, digest: str) -> str | None:
    """What is wrong with an installed module; None where nothing is."""
    wasm = wasm_of(modules_folder, digest)
    if wasm is not None and not wasm.is_file():
        return "its bytes are missing"
    if wasm is not None and _digest(wasm) != digest:
        return "its bytes are not those that were accepted"
    try:
        read_installed(folder, modules_folder, digest)
    except (LoketError, OSError) as error:
        return str(error)
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sandboxes(_patient: Patient) -> Iterator[Check]:
    """The process sandbox, in which programs and MCP servers of this machine run, starts a command."""
    from loket.jail.choose import INSTALL, choose

    try:
        kind = choose().kind
    except Refusal as refused:
        yield warning("sandbox", refused.message, refused.remedy)
        return
    if kind == "landlock":
        said = "programs run under Landlock and a filter of system calls; bubblewrap is not there, and holds more"
        yield warning("sandbox", said, INSTALL)
    else:
        yield sound("sandbox", "programs run in bubblewrap, with a filter of system calls")


def cache(patient: Patient) -> Iterator[Check]:
    """Compiled code is what was compiled."""
    paths = sorted(patient.home.cache.glob("*.cwasm"))
    bad = [path for path in paths if not _compiled(path)]
    for path in bad:
        detail = f"{path.name} is not what was compiled; it is never used, and compiled again"
        if patient.fix:
            for one in (path, path.with_suffix(".json")):
                one.unlink(missing_ok=True)
            yield mended("cache", detail, "deleted")
        else:
            yield mendable("cache", WARNING, detail)
    if not bad:
        yield sound("cache", f"{len(paths)} compiled modules are sound")


def _compiled(path: Path) -> bool:
    try:
        return bool(json.loads(path.with_suffix(".json").read_text())["sha256"] == _digest(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def models(patient: Patient) -> Iterator[Check]:
    """The models that are set up could answer: a file is there, an address takes connections. Nothing is sent."""
    embedded = find_embedded(patient.home.root)
    if not patient.config.models:
        yield _unset() if embedded is None else sound("models", f"the embedded model {embedded.name} is there")
        return
    settings = parse_routes(patient.config.models)
    routes = {route.name: route for route in settings.routes}
    chosen = [routes[name] for name in settings.chain if name in routes]
    if not chosen:
        yield _unset()
        return
    with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        yield from pool.map(lambda route: _route(route, embedded), chosen)


def _unset() -> Check:
    return warning("models", "no model is set up", "loket model pull, or loket model use NAME")


def _route(route: Route, embedded: Path | None) -> Check:
    if route.kind == "embedded":
        if embedded is None:
            return warning("models", f"{route.name}: there is no model file", "loket model pull")
        return sound("models", f"{route.name}: {embedded.name} is there")
    if _reachable(route.base_url):
        return sound("models", f"{route.name}: {_host(route.base_url)} takes connections")
    remedy = "start its server, or choose another: loket model use NAME"
    return warning("models", f"{route.name}: nothing answers at {_host(route.base_url)}", remedy)


def _host(url: str) -> str:
    """The address without what could be secret in it."""
    place = urlsplit(url)
    return f"{place.hostname}:{place.port}" if place.port else str(place.hostname)


def _reachable(url: str) -> bool:
    place = urlsplit(url)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), _PROBE_S).close()
    except (OSError, ValueError):
        return False
    return True
