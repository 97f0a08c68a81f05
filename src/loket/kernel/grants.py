"""Grants: the owner's decisions about which module may use which capability.

In the kernel because nothing else may give a module an ability. A grant belongs to publisher and module; it counts only
for digests that the owner has accepted. A manifest's wishes never get here by themselves.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from loket.contracts import OWNER, Grant, Json, ModuleRef, Records, Refusal, RowKind
from loket.kernel.journal import Journal
from loket.kernel.text import canonical


class Grants:
    """All grants, in memory; every change is a journal row and a statement in one transaction, synced."""

    def __init__(
        self,
        journal: Journal,
        records: Records,
        *,
        grants: Iterable[Grant] = (),
        accepted: Iterable[tuple[str, str, str]] = (),
        revoked: Iterable[str] = (),
    ) -> None:
        self._journal = journal
        self._records = records
        self._grants = {(grant.publisher, grant.module, grant.capability): grant for grant in grants}
        self._accepted = set(accepted)
        self._revoked = set(revoked)
        self._lock = threading.Lock()

    def find(self, publisher: str, module: str, digest: str, capability: str) -> Grant:
        """The grant for a call. Raises `Refusal` with the command that would allow it."""
        if digest in self._revoked:
            raise Refusal(
                "module.revoked",
                f"the owner has revoked this version of {module} ({digest[:12]}…)",
                f"install another version of {module}",
                blame="owner",
            )
        if (publisher, module, digest) not in self._accepted:
            raise Refusal(
                "module.unaccepted",
                f"the owner has not accepted these bytes of {module} ({digest[:12]}…)",
                f"loket install the module again and accept it (publisher {publisher})",
                blame="owner",
            )
        grant = self._grants.get((publisher, module, capability))
        if grant is None:
            raise Refusal(
                "grant.missing",
                f"{module} has no grant for {capability}",
                f"loket grants allow {module} {capability}",
                blame="owner",
            )
        return grant

    def runnable(self, digest: str) -> bool:
        """Whether runs of these bytes may go on (a revoked digest may only be replayed)."""
        return digest not in self._revoked

    def held(self, publisher: str, module: str) -> list[Grant]:
        """All grants of a module, by capability."""
        found = (grant for key, grant in self._grants.items() if key[:2] == (publisher, module))
        return sorted(found, key=lambda grant: grant.capability)

    def rights(self, module: ModuleRef) -> dict[str, Mapping[str, Json]]:
        """What a module may do now, for a run that begins: capability to constraints."""
        return {grant.capability: grant.constraints for grant in self.held(module.publisher, module.id)}

    def all(self) -> list[Grant]:
        return sorted(self._grants.values(), key=lambda grant: (grant.module, grant.capability))

    def allow(self, grant: Grant) -> None:
        """Record the owner's decision that a module may use a capability."""
        with self._lock:
            self._note(
                "grant.allow",
                {"publisher": grant.publisher, "module": grant.module, "capability": grant.capability},
                {"constraints": grant.constraints, "reason": grant.reason},
                self._records.grant_allowed(grant),
            )
            self._grants[(grant.publisher, grant.module, grant.capability)] = grant

    def revoke(self, publisher: str, module: str, capability: str) -> bool:
        """Take a grant back; it counts from the next call on. False where there was none."""
        with self._lock:
            if (publisher, module, capability) not in self._grants:
                return False
            del self._grants[(publisher, module, capability)]
            self._note(
                "grant.revoke",
                {"publisher": publisher, "module": module, "capability": capability},
                {},
                self._records.grant_revoked(publisher, module, capability),
            )
            return True

    def accept(self, publisher: str, module: str, digest: str, at: float) -> None:
        """Record that the owner accepted these bytes as this module's."""
        with self._lock:
            self._accepted.add((publisher, module, digest))
            self._note(
                "module.accept",
                {"publisher": publisher, "module": module, "digest": digest},
                {},
                self._records.digest_accepted(publisher, module, digest, at),
            )

    def accepted(self, publisher: str, module: str, digest: str) -> bool:
        return (publisher, module, digest) in self._accepted and digest not in self._revoked

    def revoke_digest(self, digest: str, at: float) -> None:
        """Record that these bytes may not run any more."""
        with self._lock:
            self._revoked.add(digest)
            self._note("module.revoke", {"digest": digest}, {}, self._records.digest_revoked(digest, at))

    def _note(
        self, what: str, meta: Mapping[str, Json], value: Mapping[str, Any], statement: tuple[str, tuple[object, ...]]
    ) -> None:
        facts = {"what": what, "principal": str(OWNER), **meta}
        self._journal.append("", 0, RowKind.NOTE, facts, canonical(value), (statement,))
        self._journal.sync()
