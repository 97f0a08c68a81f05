"""What is offered for an install: a folder, a pack or an address, checked, and what the owner is to decide."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Final

from loket.contracts import BadInput, ModuleRef, Refusal, Scanner
from loket.home import Home
from loket.installed import LOCAL_PUBLISHER, Installed, Source
from loket.kernel.grants import Grants
from loket.kernel.registry import Registry
from loket.packages.asks import More, more_than
from loket.packages.content import check_names
from loket.packages.fetch import FETCHED, fetch, is_address
from loket.packages.install import Package, read_package
from loket.packages.names import check_id
from loket.packages.pack import PackList
from loket.packages.signature import written
from loket.packages.unpack import check_module, unpacked
from loket.publishers import UNSIGNED, Publishers

FOLDER: Final = "folder"
"""The trust in a folder: it is the owner's own, because the owner named it."""

UNKNOWN: Final = "unknown"
"""Whose a pack is that is signed with a key that nobody here knows: what it calls itself proves nothing."""

_STALE_S: Final = 3_600.0
"""Seconds after which a fetched pack that nobody installed is removed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be installed together. `named` is what the owner named; `listed` is None for a folder."""

    named: str
    packages: tuple[Package, ...]
    listed: PackList | None = None

    @property
    def digest(self) -> str:
        """One digest (hex) for what the owner was shown: all files, the components that run, and who signed it."""
        parts = [self.listed.fingerprint or "" if self.listed is not None else FOLDER]
        parts += [f"{one.manifest.id} {one.content} {one.digest}" for one in self.packages]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Word:
    """What the owner says to an offer.

    `granted` by module; `more`: an upgrade may ask for more than before; `unsigned`: although nobody signed it; `trust`
    is the fingerprint of an unknown key that is to be trusted; `expect` the digest of what the owner was shown.
    """

    granted: Mapping[str, Sequence[str]]
    more: bool = False
    unsigned: bool = False
    trust: str | None = None
    expect: str | None = None


class Offers:
    """Opens offers, says what they ask for, and installs them by the owner's word."""

    def __init__(
        self,
        home: Home,
        installed: Installed,
        publishers: Publishers,
        grants: Grants,
        registry: Registry,
        scanner: Scanner | None = None,
    ) -> None:
        self._home = home
        self._installed = installed
        self._publishers = publishers
        self._grants = grants
        self._registry = registry
        self._scanner = scanner

    @property
    def staging(self) -> Path:
        """Where packs are fetched to and unpacked; on the same disk as the home."""
        folder = self._home.root / "staging"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def fetched(self, source: str, progress: Callable[[int, int | None], None]) -> Path:
        """The folder or file that the owner named, fetched where it is an address. Raises as `fetch.fetch` does."""
        if not is_address(source):
            return Path(source)
        await asyncio.to_thread(self._remove_stale)
        return await asyncio.to_thread(fetch, source, self.staging, progress)

    def _remove_stale(self) -> None:
        for path in self.staging.glob(f"{FETCHED}*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _STALE_S:
                    path.unlink()

    @contextlib.asynccontextmanager
    async def opened(self, place: Path, named: str | None = None) -> AsyncIterator[Offer]:
        """An offer, checked and not installed, until the context ends. Raises `BadInput`."""
        if await asyncio.to_thread(place.is_dir):
            package = await asyncio.to_thread(read_package, place, self._installed.stock_wasm())
            check_id(package.manifest.id)
            yield Offer(named or str(place), (package,))
            return
        if not await asyncio.to_thread(place.exists):
            raise BadInput(
                "package.missing", f"there is no folder and no pack {place}", "name a module's folder, or a NAME.loket"
            )
        with contextlib.ExitStack() as stack:
            listed, folder = await asyncio.to_thread(stack.enter_context, unpacked(place, self.staging))
            packages = await asyncio.to_thread(self._packages, listed, folder)
            yield Offer(named or str(place), packages, listed)

    def _packages(self, listed: PackList, folder: Path) -> tuple[Package, ...]:
        found = []
        for inside in listed.modules:
            package = read_package(folder / inside.id, self._installed.stock_wasm())
            manifest = package.manifest
            check_module(inside, manifest.id, manifest.version, manifest.kind)
            check_id(manifest.id)
            _check_files(listed, inside.id, package)
            found.append(package)
        return tuple(found)

    # What the owner is shown

    def described(self, offer: Offer) -> dict[str, Any]:
        """One object for one screen: where it comes from, what each module asks for and why, and what is new."""
        shown: dict[str, Any] = {
            "source": offer.named,
            "digest": offer.digest,
            "trust": self._trust(offer),
            "pack": self._pack(offer.listed),
            "modules": [self._module(offer, package) for package in offer.packages],
        }
        return {**shown, "scan": self._scan(offer)}

    def _trust(self, offer: Offer) -> str:
        return FOLDER if offer.listed is None else self._publishers.state(offer.listed)

    def _pack(self, listed: PackList | None) -> dict[str, Any] | None:
        if listed is None:
            return None
        return {
            "name": listed.name,
            "version": listed.version,
            "calls_itself": listed.publisher,
            "fingerprint": listed.fingerprint,
            "key": written(listed.key) if listed.key is not None else None,
        }

    def _publisher(self, offer: Offer) -> str:
        if offer.listed is None:
            return LOCAL_PUBLISHER
        if offer.listed.fingerprint is None:
            return UNSIGNED
        known = {key.fingerprint: key.publisher for key in self._publishers.all()}
        return known.get(offer.listed.fingerprint, UNKNOWN)

    def _module(self, offer: Offer, package: Package) -> dict[str, Any]:
        manifest, publisher = package.manifest, self._publisher(offer)
        more = self.more(package)
        widened = {one.name.partition(":")[0] for one in more if one.kind == "constraint"}
        held = {grant.capability: grant for grant in self._grants.held(publisher, manifest.id)}
        before = self._before(manifest.id)
        return {
            "id": manifest.id,
            "version": manifest.version,
            "kind": manifest.kind,
            "summary": manifest.summary,
            "digest": package.digest,
            "publisher": publisher,
            "before": before[0].version if before is not None else None,
            "installed_from": self._installed.publisher_of(manifest.id),
            "more": [one.as_dict() for one in more],
            "wants": [
                {
                    "name": want.name,
                    "reason": want.reason,
                    "constraints": dict(want.constraints),
                    "held": want.name in held and want.name not in widened,
                    "exists": self._registry.get(want.name) is not None,
                }
                for want in manifest.capabilities
            ],
            "operations": [
                {"name": one.name, "effect": one.effect.value, "summary": one.summary} for one in manifest.operations
            ],
            "limits": asdict(manifest.limits),
            "own": asdict(manifest.own) if is_dataclass(manifest.own) and not isinstance(manifest.own, type) else None,
        }

    def _before(self, name: str) -> tuple[ModuleRef, Package] | None:
        return next((found for found in self._installed.all() if found[0].id == name), None)

    def more(self, package: Package) -> list[More]:
        """What a package asks for beyond the version that is installed; nothing where none is."""
        before = self._before(package.manifest.id)
        return more_than(before[1].manifest, package.manifest) if before is not None else []

    def _scan(self, offer: Offer) -> dict[str, Any]:
        if self._scanner is None:
            return {"scanner": None, "said": "no scanner is installed: nobody has looked at these files"}
        alarms = [
            {"module": package.manifest.id, **asdict(alarm)}
            for package in offer.packages
            for alarm in self._scanner.look(package)
        ]
        return {"scanner": self._scanner.id, "alarms": alarms}

    # The owner's word

    async def install(self, offer: Offer, word: Word, granted_by: str = "owner") -> list[ModuleRef]:
        """Install an offer by the owner's word.

        Raises `BadInput` where it is not what the owner was shown, or nobody may install it, `Refusal`
        (`package.more`) where an upgrade asks for more and the owner has not said that it may.
        """
        if word.expect is not None and word.expect != offer.digest:
            raise BadInput(
                "package.changed",
                f"{offer.named} is not what it was when it was shown",
                "look at it again: loket install",
            )
        ids = [package.manifest.id for package in offer.packages]
        for name in word.granted:
            if name not in ids:
                raise BadInput("grant.unasked", f"there is no module {name} in it", f"it has: {', '.join(ids)}")
        self._check_trust(offer, word)
        if not word.more:
            for package in offer.packages:
                self._stop_at(package)
        source = await asyncio.to_thread(self._source, offer, word)
        return await self._installed.install_all(offer.packages, source, word.granted, granted_by)

    def _check_trust(self, offer: Offer, word: Word) -> None:
        """Raises `BadInput` where nobody may install it, or the key that the owner trusts is not its key."""
        listed = offer.listed
        if listed is None:
            return
        if word.trust is None or self._publishers.state(listed) != UNKNOWN:
            self._publishers.publisher(listed, unsigned=word.unsigned)
        elif word.trust != listed.fingerprint:
            raise BadInput(
                "pack.untrusted",
                f"the pack is signed by {listed.fingerprint}, and you trust {word.trust}",
                "compare the fingerprint with what the publisher says elsewhere",
            )

    def _stop_at(self, package: Package) -> None:
        more = self.more(package)
        if more:
            manifest = package.manifest
            raise Refusal(
                "package.more",
                f"{manifest.id} {manifest.version} asks for more than the version that is installed: "
                + "; ".join(one.said for one in more),
                "look at it, then install it with --more (or --yes, which grants it all)",
                blame="owner",
            )

    def _source(self, offer: Offer, word: Word) -> Source:
        """Whose it is; a key that the owner trusts from now on is noted. Raises `BadInput` where it cannot be."""
        listed = offer.listed
        if listed is None:
            return Source(LOCAL_PUBLISHER, offer.named)
        if listed.key is not None and word.trust is not None and self._publishers.state(listed) == UNKNOWN:
            self._publishers.trust(listed.key, listed.publisher or "")
        publisher = self._publishers.publisher(listed, unsigned=word.unsigned)
        return Source(publisher, offer.named, listed.digest, listed.fingerprint)


def _check_files(listed: PackList, module: str, package: Package) -> None:
    """Raises `BadInput` for a file in a module's folder that does not belong to a module."""
    there = {one.path.partition("/")[2] for one in listed.files if one.path.startswith(f"{module}/")}
    check_names(there)
    odd = sorted(there - {one.path for one in package.files})
    if odd:
        raise BadInput(
            "pack.unlisted",
            f"the pack holds {module}/{odd[0]}, which belongs to no module",
            "make it with `loket pack`",
        )
