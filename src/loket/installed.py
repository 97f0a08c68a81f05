"""The installed modules: what the owner put in, from which bytes, and what each was granted."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loket.contracts import BadInput, Damaged, Grant, Guest, Json, LoketError, ModuleRef, command
from loket.home import Home
from loket.kernel.constraints import check_constraints
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Registry
from loket.packages.install import Package, discard, place, read_installed, read_package
from loket.packages.resources import resource
from loket.sandbox import WasmSandbox
from loket.store.kernel import KernelDatabase

STOCK_AGENT = "main"
STOCK_PUBLISHER = "loket"
LOCAL_PUBLISHER = "local"


class Installed:
    """The modules of a home. `read` comes first; all else on the event loop."""

    def __init__(
        self,
        home: Home,
        *,
        database: KernelDatabase,
        journal: Journal,
        grants: Grants,
        registry: Registry,
        sandbox: WasmSandbox,
        now: Callable[[], float],
    ) -> None:
        self._home = home
        self._database = database
        self._journal = journal
        self._grants = grants
        self._registry = registry
        self._sandbox = sandbox
        self._now = now
        self._packages: dict[str, tuple[ModuleRef, Package]] = {}
        self.unreadable: dict[str, LoketError] = {}
        """Installed modules whose folder cannot be read, and why; the others go on."""

    def names(self) -> list[str]:
        """Ids of the modules that can be used."""
        return list(self._packages)

    def load(self, module: ModuleRef) -> Guest:
        """The guest of a module, from its bytes in the home."""
        return self._sandbox.load(self._home.modules / f"{module.digest}.wasm", module.digest)

    def read(self) -> None:
        for row in self._database.modules():
            try:
                self._read_module(row)
            except (BadInput, Damaged) as error:
                self.unreadable[row["id"]] = error

    def _read_module(self, row: dict[str, Any]) -> None:
        package = read_installed(self._home.root / row["folder"], self._home.modules, row["digest"])
        limits = package.manifest.limits
        self._packages[row["id"]] = (
            ModuleRef(row["publisher"], row["id"], row["version"], row["digest"], limits),
            package,
        )

    def all(self) -> list[tuple[ModuleRef, Package]]:
        return [self._packages[name] for name in sorted(self._packages)]

    def module(self, name: str) -> tuple[ModuleRef, Package]:
        """An installed module by id. Raises `BadInput`."""
        if name in self.unreadable:
            raise self.unreadable[name]
        if name not in self._packages:
            have = ", ".join(sorted(self._packages)) or "none"
            raise BadInput("agent.unknown", f"there is no agent {name!r}; installed: {have}", "loket agents")
        return self._packages[name]

    async def install(self, folder: Path, publisher: str, granted: Sequence[str], granted_by: str) -> ModuleRef:
        """Install a module's folder; the owner has decided on it and on these capabilities.

        Raises `BadInput` where the folder is no module of ours, or belongs to another publisher's module.
        """
        package = await asyncio.to_thread(read_package, folder, self.stock_wasm())
        name = package.manifest.id
        self._check_publisher(name, publisher)
        if not self._grants.runnable(package.digest):
            raise BadInput(
                "module.revoked", f"the owner has revoked these bytes of {name}", "build and install another version"
            )
        asked = {want.name: want for want in package.manifest.capabilities}
        self._check_granted(granted, set(asked), name)
        target = await asyncio.to_thread(place, package, self._home.packages, self._home.modules, self._sandbox.check)
        ref = ModuleRef(publisher, name, package.manifest.version, package.digest, package.manifest.limits)
        folder_name = str(target.relative_to(self._home.root))
        now = self._now()
        self._journal.also(self._database.module_installed(ref, package.manifest.kind, folder_name, now))
        self._grants.accept(publisher, name, package.digest, now)
        for capability in granted:
            want = asked[capability]
            check_constraints(self._registry.find(capability).capability, want.constraints, by_owner=False)
            self._grants.allow(Grant(publisher, name, capability, want.constraints, granted_by, now, want.reason))
        self._read_module({"publisher": publisher, "folder": folder_name, **_ref_row(ref)})
        self.unreadable.pop(name, None)
        await asyncio.to_thread(self.load, ref)
        return ref

    def allow(self, agent: str, capability: str, constraints: Mapping[str, Json], *, add: bool = False) -> Grant:
        """Grant a capability to an installed module by the owner's word; `add` widens the grant that it has.

        Raises `BadInput` for an unknown module or constraint, `Refusal` for an unknown capability.
        """
        ref, _package = self.module(agent)
        known = self._registry.find(capability).capability
        check_constraints(known, constraints)
        if add:
            held = [grant for grant in self._grants.held(ref.publisher, ref.id) if grant.capability == capability]
            constraints = known.widened(held[0].constraints, constraints) if held else constraints
        grant = Grant(ref.publisher, ref.id, capability, constraints, "owner", self._now(), "granted by command")
        self._grants.allow(grant)
        return grant

    def _check_publisher(self, name: str, publisher: str) -> None:
        held = self._packages.get(name)
        if held is not None and held[0].publisher != publisher:
            raise BadInput(
                "package.publisher",
                f"{name} is installed from publisher {held[0].publisher}, and this one is from {publisher}",
                f"choose another id, or remove it first: {command('remove', name) or 'loket remove MODULE'}",
            )

    def _check_granted(self, granted: Sequence[str], asked: set[str], name: str) -> None:
        for capability in granted:
            if capability not in asked:
                raise BadInput(
                    "grant.unasked",
                    f"{name} does not ask for {capability}",
                    f"it asks for: {', '.join(sorted(asked)) or 'nothing'}",
                )

    def stock_wasm(self) -> Path | None:
        """The stock agent's bytes, for agents without a module of their own."""
        held = self._packages.get(STOCK_AGENT)
        return self._home.modules / f"{held[0].digest}.wasm" if held else None

    async def remove(self, name: str) -> None:
        """Remove a module and its grants; its brain and its journal stay."""
        ref, _package = self.module(name)
        for grant in self._grants.held(ref.publisher, name):
            self._grants.revoke(ref.publisher, name, grant.capability)
        self._journal.also(self._database.module_removed(name))
        await asyncio.to_thread(self._journal.sync)
        del self._packages[name]
        self._sandbox.forget(ref.digest)
        needed = self._database.needed_digests() | {kept.digest for kept, _ in self._packages.values()}
        await asyncio.to_thread(discard, self._home.packages, self._home.modules, name, needed)

    async def ensure_stock_agent(self) -> bool:
        """Install the stock agent at first start, or its newer bytes. Whether anything was done.

        At first start the owner's decision to run this distribution includes what its agent asks for; a later version
        keeps its grants and gets no new ones by itself.
        """
        folder = resource("agents") / STOCK_AGENT
        package = await asyncio.to_thread(read_package, folder)
        held = self._packages.get(STOCK_AGENT)
        if held is not None and (held[0].digest, held[0].version) == (package.digest, package.manifest.version):
            return False
        first = held is None and not self._grants.held(STOCK_PUBLISHER, STOCK_AGENT)
        granted = [want.name for want in package.manifest.capabilities] if first else []
        await self.install(folder, STOCK_PUBLISHER, granted, "owner, with the distribution")
        return True


def _ref_row(ref: ModuleRef) -> dict[str, Any]:
    return {"id": ref.id, "version": ref.version, "digest": ref.digest}
