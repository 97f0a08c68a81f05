"""Publishers: whose keys the owner trusts, keys of the owner's own, and whether a pack may be installed.

A publisher is a name that the owner has tied to a key; what a pack calls itself proves nothing. When a publisher
changes its key, the owner says that the new one follows the old one, and its modules go on belonging to the same name.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from loket.contracts import OWNER, BadInput, RowKind, Secrets, command
from loket.kernel.journal import Journal
from loket.packages.pack import PUBLISHER, PackList, Signer
from loket.packages.signature import fingerprint, new_key, public_of, sign
from loket.store.modules import REVOKED, TRUSTED, ModuleRows, PublisherKey

UNSIGNED: Final = "unsigned"
"""Whose the modules of packs are that nobody signed: anybody's, so the owner says so each time."""

REPLACED: Final = "replaced"
"""The state of a key that another one took the place of: nothing more is installed from it."""

_RESERVED: Final = ("local", "loket", UNSIGNED, "owner", "host")
_PRIVATE: Final = "publisher-key."
"""Begins the names of private keys in the vault."""


class Publishers:
    """The list of keys. Thread-safe; every change is a journal row and a statement in one transaction, synced."""

    def __init__(self, rows: ModuleRows, journal: Journal, secrets: Secrets, now: Callable[[], float]) -> None:
        self._rows = rows
        self._journal = journal
        self._secrets = secrets
        self._now = now
        self._lock = threading.Lock()

    def all(self) -> list[PublisherKey]:
        """All keys that the owner has said something about."""
        return self._rows.keys()

    def key(self, named: str) -> PublisherKey:
        """The key of a fingerprint, or the last one of a publisher. Raises `BadInput`."""
        found = [key for key in self.all() if named in (key.fingerprint, key.publisher)]
        if not found:
            have = ", ".join(sorted({key.publisher for key in self.all()})) or "none"
            raise BadInput("key.unknown", f"there is no key of {named!r}; publishers: {have}", "loket keys list")
        return next((key for key in reversed(found) if key.state == TRUSTED), found[-1])

    def new(self, publisher: str) -> PublisherKey:
        """Make a key pair of the owner's own: the private key goes to the vault, the public one is trusted.

        Raises `BadInput` where the name cannot be one, or has a key already.
        """
        _check_name(publisher)
        with self._lock:
            if any(key.publisher == publisher for key in self.all()):
                raise BadInput(
                    "key.taken", f"there is a publisher {publisher} already", command("keys", "show", publisher)
                )
            private = new_key()
            self._secrets.put(_PRIVATE + publisher, private.hex())
            public = public_of(private)
            key = PublisherKey(fingerprint(public), public, publisher, TRUSTED, self._now(), own=True)
            self._write("publisher.new", key)
            return key

    def signer(self, publisher: str) -> Signer:
        """What signs packs with a key of the owner's own. Raises `BadInput` where there is none, or it was revoked."""
        key = self.key(publisher)
        private = self._secrets.get(_PRIVATE + key.publisher) if key.own else None
        if private is None:
            raise BadInput(
                "key.private", f"the private key of {publisher} is not in this home", command("keys", "new", publisher)
            )
        if key.state != TRUSTED:
            raise BadInput("key.revoked", f"the key of {publisher} is {key.state}", "loket keys new ANOTHER")
        secret = bytes.fromhex(private)
        return Signer(key.publisher, key.key, lambda data: sign(secret, data))

    def trust(self, public: bytes, publisher: str, replaces: str | None = None) -> PublisherKey:
        """Tie a public key to a publisher's name. `replaces`: the name or fingerprint of the key that it follows.

        Raises `BadInput` where the key was revoked, or the name belongs to another key that is not replaced.
        """
        _check_name(publisher)
        with self._lock:
            known = {key.fingerprint: key for key in self.all()}
            held = known.get(fingerprint(public))
            if held is not None and held.state == REVOKED:
                raise BadInput("key.revoked", f"the owner has revoked {held.fingerprint}", "get another key")
            old = self.key(replaces) if replaces is not None else None
            publisher = old.publisher if old is not None else publisher
            self._check_free(publisher, held, old, list(known.values()))
            own = held.own if held is not None else False
            key = PublisherKey(fingerprint(public), public, publisher, TRUSTED, self._now(), own=own)
            self._write("publisher.trust", key)
            if old is not None and old.fingerprint != key.fingerprint and old.state == TRUSTED:
                self._write("publisher.replace", replace(old, state=REPLACED, at=self._now()))
            return key

    def _check_free(
        self, publisher: str, held: PublisherKey | None, old: PublisherKey | None, keys: list[PublisherKey]
    ) -> None:
        if held is not None and held.publisher != publisher:
            raise BadInput(
                "key.taken", f"this key is that of {held.publisher} already", command("keys", "show", held.publisher)
            )
        others = [key for key in keys if key.publisher == publisher and key is not held]
        if others and old is None and held is None:
            raise BadInput(
                "key.taken",
                f"{publisher} has another key, {others[-1].fingerprint}: whoever made this one may be somebody else",
                f"choose another name with --name, or, if it has changed its key: --replaces {publisher}",
            )

    def revoke(self, named: str) -> PublisherKey:
        """Have nothing more installed that a key signed. Raises `BadInput` where it is unknown."""
        with self._lock:
            key = replace(self.key(named), state=REVOKED, at=self._now())
            self._write("publisher.revoke", key)
            return key

    def state(self, listed: PackList) -> str:
        """`trusted`, `replaced`, `revoked`, `unknown`, or `unsigned`."""
        if listed.fingerprint is None:
            return UNSIGNED
        return next((key.state for key in self.all() if key.fingerprint == listed.fingerprint), "unknown")

    def publisher(self, listed: PackList, *, unsigned: bool = False) -> str:
        """Whose a pack is. `unsigned`: the owner takes it although nobody signed it.

        Raises `BadInput` where its key is not trusted, or there is none.
        """
        state = self.state(listed)
        if state == TRUSTED:
            return self.key(listed.fingerprint or "").publisher
        if state == UNSIGNED and unsigned:
            return UNSIGNED
        raise _refused(listed, state)

    def revoked(self) -> dict[str, str]:
        """Fingerprint to publisher, of revoked keys."""
        return {key.fingerprint: key.publisher for key in self.all() if key.state == REVOKED}

    def _write(self, what: str, key: PublisherKey) -> None:
        facts = {"what": what, "principal": str(OWNER), "publisher": key.publisher, "key": key.fingerprint}
        self._journal.append("", 0, RowKind.NOTE, facts, "{}", (self._rows.key_put(key),))
        self._journal.sync()


def _check_name(publisher: str) -> None:
    if not PUBLISHER.fullmatch(publisher) or publisher in _RESERVED:
        raise BadInput(
            "key.name",
            f"{publisher!r} cannot be a publisher's name: 2 to 41 small letters, digits and hyphens, and none of"
            f" {', '.join(_RESERVED)}",
            "--name acme",
        )


def _refused(listed: PackList, state: str) -> BadInput:
    who = f"{listed.publisher} ({listed.fingerprint})"
    if state == UNSIGNED:
        return BadInput(
            "pack.unsigned",
            f"nobody signed the pack {listed.name}, so nobody knows who made it",
            "add --unsigned if you know where it comes from",
        )
    if state == REVOKED:
        return BadInput(
            "pack.revoked", f"you have revoked the key of {who}", "ask the publisher for a pack of another key"
        )
    if state == REPLACED:
        return BadInput(
            "pack.replaced", f"the key of {who} was replaced by a newer one", "ask the publisher for a newer pack"
        )
    return BadInput(
        "pack.untrusted",
        f"the pack is signed by a key that you do not know: {who}",
        f"compare the fingerprint with what the publisher says elsewhere, then add --trust {listed.fingerprint}",
    )
