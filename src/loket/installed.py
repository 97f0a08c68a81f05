"""The installed modules: what the owner put in, from which bytes, and what each was granted.

An install puts the new folders and bytes beside the old ones; one transaction then says which ones count, of all
modules of a pack together. Whenever it is killed, the old ones count as a whole, or the new ones do.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import OWNER, BadInput, Damaged, Grant, Guest, Json, LoketError, ModuleRef, RowKind, command
from loket.home import Home
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Registry
from loket.narrowing import check_constraints
from loket.packages.change import Change, OnChange, What
from loket.packages.install import PASSIVE, Package, place, read_installed, read_package, sweep, wasm_of
from loket.packages.names import check_id
from loket.packages.resources import resource
from loket.sandbox import WasmSandbox
from loket.store.kernel import KernelDatabase
from loket.store.modules import Version

STOCK_AGENT = "main"
STOCK_PUBLISHER = "loket"
LOCAL_PUBLISHER = "local"
"""Of a folder that the owner named."""

KEPT_VERSIONS = 3
"""Of each module, the one that counts among them."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from: whose they are, what the owner named, the digest of the pack, and who signed it."""

    publisher: str
    named: str = ""
    pack: str | None = None
    signer: str | None = None


class Installed:
    """The modules of a home. `start` (or `read`) comes first; all else on the event loop."""

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
        self._rows = database.packages
        self._journal = journal
        self._grants = grants
        self._registry = registry
        self._sandbox = sandbox
        self._now = now
        self._packages: dict[str, tuple[ModuleRef, Package]] = {}
        self._leaving: set[tuple[str, str]] = set()
        """Publisher and id of removed modules that have runs in flight: their grants stay until these have ended."""
        self._changing = asyncio.Lock()
        self.unreadable: dict[str, LoketError] = {}
        """Installed modules whose folder cannot be read, and why; the others go on."""
        self._watchers: list[OnChange] = []
        self._checks: list[OnChange] = []
        self._told = False
        self.unfollowed: dict[str, LoketError] = {}
        """Installed modules that some part of the system could not take up, and why; the others go on."""

    # Following

    def watch(self, on_change: OnChange, check: OnChange | None = None) -> None:
        """Have a part of the system follow the installed modules.

        `on_change` is called on the event loop for each module that is there (as installed, at `start`, or at once
        after it), and whenever one is installed, upgraded or removed, after that is on the disk. It returns soon. An
        error that it raises stands in `unfollowed`, and stops nothing. `check` is called before anything is changed
        by an install or an upgrade, and may raise `BadInput`: then nothing is changed.
        """
        self._watchers.append(on_change)
        if check is not None:
            self._checks.append(check)
        if self._told:
            for name, (ref, package) in sorted(self._packages.items()):
                self._tell_one(on_change, name, Change(What.INSTALLED, ref, package))

    def _tell(self, name: str, change: Change) -> None:
        self.unfollowed.pop(name, None)
        for on_change in self._watchers:
            self._tell_one(on_change, name, change)

    def _tell_one(self, on_change: OnChange, name: str, change: Change) -> None:
        try:
            on_change(name, change)
        except LoketError as error:
            self.unfollowed[name] = error

    # Reading

    async def start(self) -> None:
        """Read what is installed, and tell those who follow it. Called once, on the event loop."""
        await asyncio.to_thread(self.read)
        self._told = True
        for name, (ref, package) in sorted(self._packages.items()):
            self._tell(name, Change(What.INSTALLED, ref, package))

    def read(self) -> None:
        """Read what is installed, and take away what an interrupted install left behind."""
        for row in self._database.modules():
            try:
                self._read_module(row)
            except (BadInput, Damaged) as error:
                self.unreadable[row["id"]] = error
        self._leaving = set(self._rows.leaving())
        if self._journal.broken is None:
            self._sweep(None)
            self.settle()

    def _read_module(self, row: Mapping[str, Any]) -> None:
        package = read_installed(self._home.root / row["folder"], self._home.modules, row["digest"])
        limits = package.manifest.limits
        self._packages[row["id"]] = (
            ModuleRef(row["publisher"], row["id"], row["version"], row["digest"], limits),
            package,
        )

    def names(self) -> list[str]:
        """Ids of the modules that can be used."""
        return list(self._packages)

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

    def load(self, module: ModuleRef) -> Guest:
        """The guest of a module, from its bytes in the home; of any version that a run needs."""
        wasm = wasm_of(self._home.modules, module.digest)
        if wasm is None:
            raise BadInput("module.passive", f"{module.id} has no component: nothing of it runs", "loket agents")
        return self._sandbox.load(wasm, module.digest)

    def stock_wasm(self) -> Path | None:
        """The stock agent's bytes, for agents without a module of their own."""
        held = self._packages.get(STOCK_AGENT)
        return self._home.modules / f"{held[0].digest}.wasm" if held else None

    def versions(self, name: str) -> list[tuple[Version, bool]]:
        """The versions of a module that are kept, the newest first, and whether each is the one that counts."""
        folders = {row["folder"] for row in self._database.modules() if row["id"] == name}
        return [(version, version.folder in folders) for version in self._rows.versions(name)]

    # Installing

    async def install(self, folder: Path, publisher: str, granted: Sequence[str], granted_by: str) -> ModuleRef:
        """Install a module's folder; the owner has decided on it and on these capabilities.

        Raises `BadInput` where the folder is no module of ours, or belongs to another publisher's module.
        """
        package = await asyncio.to_thread(read_package, folder, self.stock_wasm())
        source = Source(publisher, str(folder))
        return (await self.install_all([package], source, {package.manifest.id: granted}, granted_by))[0]

    async def install_all(
        self, packages: Sequence[Package], source: Source, granted: Mapping[str, Sequence[str]], granted_by: str
    ) -> list[ModuleRef]:
        """Install packages of one source together; the owner has decided on them, and by module on what is granted.

        All of them count from one moment on, or none does. Runs in flight go on with the version that they began with.

        Raises `BadInput` where one of them cannot be installed; nothing is changed then.
        """
        async with self._changing:
            for package in packages:
                self._check(package, source.publisher, granted.get(package.manifest.id, ()))
            fresh = [package for package in packages if not self._is_same(package, source)]
            try:
                versions = await asyncio.to_thread(self._place, fresh, source)
            except BaseException:
                await asyncio.to_thread(self._sweep, self._needed())
                raise
            self._settle_leaving([package.manifest.id for package in packages])
            await asyncio.to_thread(self._commit, packages, versions, source, granted, granted_by)
            return self._taken(packages, versions)

    def _check(self, package: Package, publisher: str, granted: Sequence[str]) -> None:
        """Raises `BadInput` or `Refusal` where a package cannot be installed, or these cannot be granted to it."""
        manifest = package.manifest
        if publisher != STOCK_PUBLISHER:
            check_id(manifest.id)
        self._check_publisher(manifest.id, publisher)
        if not self._grants.runnable(package.digest):
            raise BadInput(
                "module.revoked",
                f"the owner has revoked these bytes of {manifest.id}",
                "build and install another version",
            )
        asked = {want.name: want for want in manifest.capabilities}
        for capability in granted:
            if capability not in asked:
                raise BadInput(
                    "grant.unasked",
                    f"{manifest.id} does not ask for {capability}",
                    f"it asks for: {', '.join(sorted(asked)) or 'nothing'}",
                )
            known = self._registry.find(capability).capability
            check_constraints(known, asked[capability].constraints, by_owner=False)
        before = self._packages.get(manifest.id)
        ref = ModuleRef(publisher, manifest.id, manifest.version, package.digest, manifest.limits)
        change = Change(What.UPGRADED if before is not None else What.INSTALLED, ref, package, before)
        for check in self._checks:
            check(manifest.id, change)

    def _check_publisher(self, name: str, publisher: str) -> None:
        held = self.publisher_of(name)
        if held is not None and held != publisher:
            raise BadInput(
                "package.publisher",
                f"{name} is installed from publisher {held}, and this one is from {publisher}",
                f"choose another id, or remove it first: {command('remove', name) or 'loket remove MODULE'}",
            )

    def publisher_of(self, name: str) -> str | None:
        """Whose an installed module is, one that cannot be read included; None where it is not installed."""
        held = self._packages.get(name)
        if held is not None:
            return held[0].publisher
        found = [row["publisher"] for row in self._database.modules() if row["id"] == name]
        return found[0] if found else None

    def _is_same(self, package: Package, source: Source) -> bool:
        """Whether exactly this is installed and sound, so that nothing but grants is left to do."""
        if package.manifest.id not in self._packages:
            return False
        current = [version for version, counts in self.versions(package.manifest.id) if counts]
        same = (package.content, package.digest, source.signer)
        if [(one.content, one.digest, one.signer) for one in current] != [same] or not package.content:
            return False
        folder = self._home.root / current[0].folder
        return all((folder / one.path).is_file() for one in package.files if one.path != package.own_wasm)

    def _place(self, packages: Sequence[Package], source: Source) -> dict[str, Version]:
        """Put folders and bytes into the home, load them, and say which versions they are. Nothing counts yet."""
        made = {}
        for package in packages:
            target = place(package, self._home.packages, self._home.modules, self._sandbox.load)
            manifest = package.manifest
            made[manifest.id] = Version(
                manifest.id,
                source.publisher,
                manifest.version,
                manifest.kind,
                package.digest,
                target.relative_to(self._home.root).as_posix(),
                package.content,
                source.pack,
                source.signer,
                source.named,
                self._now(),
            )
        return made

    def _commit(
        self,
        packages: Sequence[Package],
        versions: Mapping[str, Version],
        source: Source,
        granted: Mapping[str, Sequence[str]],
        granted_by: str,
    ) -> None:
        """Have the new versions count, with their grants, in one transaction."""
        with self._journal.together():
            now = self._now()
            for package in packages:
                self._grants.accept(source.publisher, package.manifest.id, package.digest, now)
            if versions:
                self._note("module.install", source, list(versions.values()))
            for package in packages:
                name = package.manifest.id
                for want in package.manifest.capabilities:
                    if want.name in granted.get(name, ()):
                        within, reason = want.constraints, want.reason
                        self._grants.allow(Grant(source.publisher, name, want.name, within, granted_by, now, reason))

    def _note(self, what: str, source: Source, versions: Sequence[Version]) -> None:
        """Journal which versions count from now on, and have the lists say so in the same transaction."""
        now = self._now()
        facts = {
            "what": what,
            "principal": str(OWNER),
            "publisher": source.publisher,
            "signer": source.signer,
            "pack": source.pack,
            "modules": [{"id": one.id, "version": one.version, "digest": one.digest} for one in versions],
        }
        statements = [self._rows.current(one, now) for one in versions]
        statements += [self._rows.added(one) for one in versions if not one.number]
        statements += [self._rows.dropped(one) for version in versions for one in self._surplus(version)]
        self._journal.append("", 0, RowKind.NOTE, facts, "{}", tuple(statements))
        self._journal.sync()

    def _surplus(self, fresh: Version) -> list[Version]:
        """Versions that are not kept any more when this one counts."""
        if fresh.number:
            return []
        held = self.versions(fresh.id)
        counting = [version for version, counts in held if counts]
        others = [version for version, counts in held if not counts]
        return [*counting, *others][KEPT_VERSIONS - 1 :]

    def _taken(self, packages: Sequence[Package], versions: Mapping[str, Version]) -> list[ModuleRef]:
        """Read the new versions, tell those who follow, and take away what nothing needs any more."""
        for name, version in versions.items():
            before = self._packages.get(name)
            row = {"id": name, "publisher": version.publisher, "version": version.version}
            self._read_module({**row, "digest": version.digest, "folder": version.folder})
            self.unreadable.pop(name, None)
            what = What.UPGRADED if before is not None else What.INSTALLED
            self._tell(name, Change(what, *self._packages[name], before))
            if before is not None and before[0].digest not in self._digests():
                self._sandbox.forget(before[0].digest)
        if versions:
            self._sweep(None, versions.keys())
        return [self._packages[package.manifest.id][0] for package in packages]

    def _digests(self) -> set[str]:
        return {ref.digest for ref, _ in self._packages.values()}

    def _needed(self) -> set[str]:
        """Digests of bytes that an installed module, a version that is kept or a run of the journal needs."""
        kept = {version.digest for version in self._rows.versions()}
        return self._database.needed_digests() | kept | self._digests()

    def _sweep(self, digests: set[str] | None, names: Collection[str] | None = None) -> None:
        """Take away folders (of these modules) that no version has, and bytes of other digests than these, if given."""
        folders = {self._home.root / version.folder for version in self._rows.versions()}
        folders |= {self._home.root / row["folder"] for row in self._database.modules()}
        sweep(self._home.packages, self._home.modules, folders, digests, names)

    # Rolling back and removing

    async def rollback(
        self, name: str, version: str | None = None, allowed: Callable[[Version], None] = lambda _version: None
    ) -> ModuleRef:
        """Have an earlier version of a module count again: the newest before the one that counts, or the one named.

        `allowed` raises where a version must not come back. Its grants stay as they are.

        Raises `BadInput` where there is no such version.
        """
        async with self._changing:
            chosen = self._earlier(name, version)
            allowed(chosen)
            if not self._grants.accepted(chosen.publisher, name, chosen.digest):
                raise BadInput(
                    "module.revoked", f"the owner has revoked the bytes of {name} {chosen.version}", "loket versions"
                )
            folder = self._home.root / chosen.folder
            package = await asyncio.to_thread(read_installed, folder, self._home.modules, chosen.digest)
            ref = ModuleRef(chosen.publisher, name, chosen.version, chosen.digest, package.manifest.limits)
            before = self._packages.get(name)
            change = Change(What.UPGRADED, ref, package, before)
            for check in self._checks:
                check(name, change)
            if not chosen.digest.startswith(PASSIVE):
                await asyncio.to_thread(self.load, ref)
            source = Source(chosen.publisher, chosen.source, chosen.pack, chosen.signer)
            await asyncio.to_thread(self._note, "module.rollback", source, [chosen])
            self._packages[name] = (ref, package)
            self.unreadable.pop(name, None)
            self._tell(name, change)
            return ref

    def _earlier(self, name: str, version: str | None) -> Version:
        """The version to go back to. Raises `BadInput`."""
        if self.publisher_of(name) is None:
            self.module(name)
        held = self.versions(name)
        counting = next((one.number for one, counts in held if counts), 0)
        others = [one for one, counts in held if not counts]
        found = [one for one in others if (one.number < counting if version is None else one.version == version)]
        if not found:
            have = ", ".join(one.version for one in others) or "none"
            raise BadInput(
                "module.version",
                f"{name} has no version {version or 'before this one'} that is kept; others that are: {have}",
                command("versions", name),
            )
        return found[0]

    async def remove(self, name: str) -> None:
        """Remove a module with its versions; its brain and its journal stay.

        Its grants go at once, or, where it has runs in flight, when these have ended.
        """
        async with self._changing:
            publisher = self.publisher_of(name)
            if publisher is None:
                self.module(name)
                return
            leaving = await asyncio.to_thread(self._rows.in_flight, name)
            facts = {"what": "module.remove", "principal": str(OWNER), "publisher": publisher, "module": name}
            statements = [self._database.module_removed(name), self._rows.forgotten(name)]
            if leaving:
                statements.append(self._rows.leaves(publisher, name))
            self._journal.append("", 0, RowKind.NOTE, facts, "{}", tuple(statements))
            await asyncio.to_thread(self._journal.sync)
            if leaving:
                self._leaving.add((publisher, name))
            else:
                self._revoke_all(publisher, name)
            self._gone(name)
            await asyncio.to_thread(self._sweep, self._needed())

    def _gone(self, name: str) -> None:
        self.unreadable.pop(name, None)
        was = self._packages.pop(name, None)
        if was is not None:
            self._tell(name, Change(What.REMOVED, *was))
            self.unfollowed.pop(name, None)
            if was[0].digest not in self._digests():
                self._sandbox.forget(was[0].digest)

    def _revoke_all(self, publisher: str, name: str) -> None:
        for grant in self._grants.all():  # what others were granted of it too: its name may be somebody else's next
            if (grant.publisher, grant.module) == (publisher, name) or grant.capability.startswith(f"{name}."):
                self._grants.revoke(grant.publisher, grant.module, grant.capability)

    def settle(self) -> None:
        """Take the grants of removed modules back whose last run has ended. Called whenever a run has."""
        self._settle_leaving([name for _, name in self._leaving if not self._rows.in_flight(name)])

    def _settle_leaving(self, names: Sequence[str]) -> None:
        """Take the grants of these modules back, if they are leaving: what comes after them gets nothing of theirs."""
        for publisher, name in [one for one in self._leaving if one[1] in names]:
            self._revoke_all(publisher, name)
            self._journal.also(self._rows.left(publisher, name))
            self._journal.sync()
            self._leaving.discard((publisher, name))

    # Grants, and the stock agent

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
