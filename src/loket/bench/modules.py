"""Rows about packages: how soon a module runs that is installed in a running system, and a start with many."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from loket.app import Loket
from loket.bench.place import Place, system_at
from loket.bench.rows import Peer, Taken
from loket.bench.server import environment, serving
from loket.bench.start import resident_of
from loket.bench.turns import ask_over_http
from loket.contracts import ModuleRef
from loket.home import Home
from loket.installed import LOCAL_PUBLISHER, Installed, Source
from loket.packages.install import read_package
from loket.testing.models import InstantModel

_MANIFEST = """\
id = "{id}"
version = "{version}"
kind = "{kind}"
summary = "A module of a benchmark"
entry = "module.wasm"

[[capability]]
name = "kv.get"
reason = "a benchmark"

[[capability]]
name = "kv.set"
reason = "a benchmark"

[[operation]]
name = "look"
summary = "Look something up"
effect = "read"
arguments = {{ type = "object", required = ["id"], properties = {{ id = {{ type = "string", maxLength = 80 }} }} }}
answer = {{ type = "object", properties = {{ found = {{ type = "boolean" }} }} }}

[[operation]]
name = "keep"
summary = "Keep something"
effect = "modify"
arguments = {{ type = "object", required = ["id", "value"], properties = {{ id = {{ type = "string" }} }} }}
"""
_NO_MODEL = "[models]\nchain = []\n"
_TEXT = "Be brief.\n" * 20


def hot_load(place: Place, n: int) -> Taken:
    """`n` upgrades of a Python module in a running system, in milliseconds from the owner's word until it can be run.

    Each is another version, which was read and shown before; its component (18 MB) was built and compiled before too,
    and is not loaded. Placing, loading and the transactions are in it. Beside it: the load alone.
    """
    return asyncio.run(_hot_load(place, n))


async def _hot_load(place: Place, n: int) -> Taken:
    home = place.home("hot-load")
    took = []
    async with system_at(home, InstantModel(lambda _: ""), 0) as (system, _names):
        stock = system.installed.stock_wasm()
        if stock is None:
            raise LookupError("the stock agent is not installed")
        for number in range(n):
            folder = await asyncio.to_thread(_written, home.root / "sources", "hot", f"1.{number}.0", "tool", stock)
            system.sandbox.forget(system.installed.module("main")[0].digest)
            package = await asyncio.to_thread(read_package, folder)
            began = time.perf_counter()
            ref = (await system.installed.install_all([package], Source(LOCAL_PUBLISHER), {}, "a benchmark"))[0]
            system.installed.load(ref)
            took.append((time.perf_counter() - began) * 1000)
        loads = [await asyncio.to_thread(_load, system, ref) for _ in range(n)]
    return Taken(took, (Peer("the load of its compiled code alone", "ms", loads),))


def _load(system: Loket, ref: ModuleRef) -> float:
    system.sandbox.forget(ref.digest)
    began = time.perf_counter()
    system.installed.load(ref)
    return (time.perf_counter() - began) * 1000


def many_modules(place: Place, n: int) -> Taken:
    """Seconds from the start of `loket up` with `n` installed modules to the answer of a first message.

    Beside it the resident memory then. Modules have schemas, persona and grants; kinds go round.
    """
    home = place.home("many-modules")
    home.config.parent.mkdir(exist_ok=True)
    home.config.write_text(_NO_MODEL, encoding="utf-8")
    asyncio.run(_populate(home, n))
    took, kept = [], []
    for number in range(4):
        began = time.perf_counter()
        with serving(home, environment(place, home)) as (process, port):
            ask_over_http(home, port, f"Hello {number}")
            took.append(time.perf_counter() - began)
            kept.append(resident_of(process.pid))
    return Taken(took[1:], (Peer("resident memory after the answer", "MB", kept[1:]),), n=n)


async def _populate(home: Home, n: int) -> None:
    """Install `n` modules, all on one component, fifty at a time."""
    async with system_at(home, InstantModel(lambda _: ""), 0) as (system, _names):
        stock = system.installed.stock_wasm()
        if stock is None:
            raise LookupError("the stock agent is not installed")
        for first in range(0, n, 50):
            names = [f"module-{number}" for number in range(first, min(first + 50, n))]
            await _install(system.installed, home, names, stock)


async def _install(installed: Installed, home: Home, names: Sequence[str], stock: Path) -> None:
    kinds = ("agent", "tool", "skill")
    folders = [
        await asyncio.to_thread(_written, home.root / "sources", name, "1.0.0", kinds[place % len(kinds)], stock)
        for place, name in enumerate(names)
    ]
    packages = [await asyncio.to_thread(read_package, folder) for folder in folders]
    granted = {package.manifest.id: ["kv.get"] for package in packages}
    await installed.install_all(packages, Source(LOCAL_PUBLISHER), granted, "a benchmark")


def _written(place: Path, name: str, version: str, kind: str, wasm: Path) -> Path:
    """Write a module's folder; its component is a link of the file system to the one that is there."""
    folder = place / f"{name}-{version}"
    folder.mkdir(parents=True)
    (folder / "loket.toml").write_text(_MANIFEST.format(id=name, version=version, kind=kind), encoding="utf-8")
    (folder / "persona.md").write_text(_TEXT, encoding="utf-8")
    try:
        (folder / "module.wasm").hardlink_to(wasm)
    except OSError:
        shutil.copyfile(wasm, folder / "module.wasm")
    return folder
