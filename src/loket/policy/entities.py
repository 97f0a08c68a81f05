"""What rules can see of a question, and nothing else: the key of the cache, from which entities and context are made.

Two questions with the same key are the same question to every rule, so they have the same decision. An attribute is in
the key only where a rule that can match the capability looks at it; the clock and the budget therefore cost nothing
until a rule asks for them.
"""

import ipaddress
import json
import socket
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from loket.contracts import Capability, Labels, Origin, Principal, Question, RunRequest
from loket.policy.generate import critical_values, module_name, principal_entity
from loket.policy.words import CONTEXT, EFFECT_GROUP


@dataclass(frozen=True, slots=True)
class Standing:
    """What the owner says of a principal: its roles, and whether it may do anything at all."""

    roles: tuple[str, ...] = ()
    enabled: bool = True


Members: TypeAlias = Callable[[Principal], Standing]
"""Says how a principal stands; asked at every decision, so it has to be quick."""

Budget: TypeAlias = Callable[[RunRequest], tuple[int, float]]
"""Tokens and US dollars that a run has left."""


def nobody(principal: Principal) -> Standing:
    """Standings where no users were created: a user is unknown, all others are as they come."""
    return Standing((), principal.kind != "user")


UNKNOWN = "unknown"
NONE = "none"
_RANK = {Origin.NAMED: 0, Origin.SELECTED: 1, Origin.TRUSTED: 2, Origin.BOUNDED: 3, Origin.UNTRUSTED: 5}
_UNKNOWN_RANK = 4
_WORDS = ("named", "selected", "trusted", "bounded", UNKNOWN, "untrusted")

Key: TypeAlias = tuple[Any, ...]


class View:
    """Makes keys, and the request that Cedar gets from a key. `now` is seconds since 1970."""

    def __init__(self, members: Members, now: Callable[[], float], budget: Budget | None = None) -> None:
        self._members = members
        self._now = now
        self._budget = budget
        self._kinds: dict[Labels, frozenset[str]] = {}
        self._readers: Mapping[str, Callable[[Question], Any]] = {
            "direct": lambda q: q.run.module is None,
            "effect": lambda q: q.capability.effect.value,
            "family": lambda q: q.capability.family,
            "worst": _worst,
            "origins": lambda q: tuple((name, found.origin.value) for name, found in q.findings.items()),
            "needed": _needed,
            "values": critical_values,
            "hosts": _hosts,
            "labels": lambda q: tuple((name, q.labels_of(name)) for name in q.args),
            "carried": self._carried,
            "exposed": lambda q: q.exposed,
            "seen": lambda q: self.kinds(q.exposed) | self._carried(q),
            "agent": lambda q: q.run.agent,
            "operation": lambda q: q.run.operation,
            "conversation": lambda q: q.run.conversation,
            "depth": lambda q: q.run.depth,
            "asked": lambda q: bool(q.run.words),
            "hour": lambda _q: self._clock().hour,
            "weekday": lambda _q: self._clock().isoweekday(),
            "today": lambda _q: int(self._clock().strftime("%Y%m%d")),
            "left_tokens": lambda q: self._left(q)[0],
            "left_cents": lambda q: int(self._left(q)[1] * 100),
            "resource": lambda q: (q.run.module.version, q.run.module.digest) if q.run.module else ("", ""),
        }

    def key(self, question: Question, uses: tuple[str, ...]) -> Key:
        """What rules that look at these attributes can see of a question."""
        capability, principal, module = question.capability, question.principal, question.run.module
        who = (module.publisher, module.id) if module is not None else question.run.agent
        head = (capability.id, capability.effect, capability.critical, principal, self._members(principal), who)
        return (*head, *[self._readers[name](question) for name in uses])

    def kinds(self, labels: Labels) -> frozenset[str]:
        """The kinds of labels: the parts before the colons."""
        known = self._kinds.get(labels)
        if known is None:
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.clear()
            known = self._kinds[labels] = frozenset(label.partition(":")[0] for label in labels)
        return known

    def _carried(self, question: Question) -> frozenset[str]:
        known = [self.kinds(question.labels_of(name)) for name in question.args]
        return known[0].union(*known[1:]) if known else frozenset()

    def _clock(self) -> datetime:
        return datetime.fromtimestamp(self._now()).astimezone()

    def _left(self, question: Question) -> tuple[int, float]:
        if self._budget is not None:
            return self._budget(question.run)
        module = question.run.module
        return (module.limits.tokens, module.limits.money) if module is not None else (0, 0.0)


_MOST_KINDS = 4096


def small(key: Key) -> bool:
    """Whether a key is short enough to be kept: arguments can be as long as a module likes."""
    return _size(key) <= _LONGEST_KEY


_LONGEST_KEY = 8_192


def _size(part: Any) -> int:
    """Characters of the texts in a key."""
    if isinstance(part, str):
        return len(part)
    return sum(map(_size, part)) if isinstance(part, (tuple, frozenset)) else 0


def request_of(key: Key, uses: tuple[str, ...], question: Question) -> tuple[dict[str, Any], str]:
    """Cedar's request, and its entities as JSON text. The question gives names alone, which are in the key."""
    capability, standing = question.capability, key[4]
    kind, name = principal_entity(question.principal)
    seen = dict(zip(uses, key[6:], strict=True))
    module = question.run.module
    version, digest = seen.get("resource", ("", ""))
    resource = {
        "publisher": module.publisher if module else "",
        "name": module.id if module else question.run.agent,
        "version": version,
        "digest": digest,
    }
    principal = {"type": kind, "id": name}
    entities = [
        {
            "uid": principal,
            "attrs": {"enabled": standing.enabled},
            "parents": [{"type": "Role", "id": role} for role in standing.roles],
        },
        {"uid": {"type": "Action", "id": capability.id}, "attrs": {}, "parents": _actions(capability)},
        {"uid": {"type": "Module", "id": module_name(question)}, "attrs": resource, "parents": []},
    ]
    request = {
        "principal": principal,
        "action": {"type": "Action", "id": capability.id},
        "resource": {"type": "Module", "id": module_name(question)},
        "context": {name: _json(name, value) for name, value in seen.items() if name != "resource"},
    }
    return request, json.dumps(entities)


def groups(capability: Capability) -> tuple[str, ...]:
    """The groups that a capability's action is in: its family, and its effect."""
    family = (capability.family,) if capability.family != capability.id else ()
    return (*family, f"{EFFECT_GROUP}{capability.effect.value}")


def _actions(capability: Capability) -> list[dict[str, str]]:
    return [{"type": "Action", "id": name} for name in groups(capability)]


def _json(name: str, value: Any) -> Any:
    kind = CONTEXT[name].type
    if kind == "text":
        return dict(value)
    if kind == "texts":
        return {argument: list(labels) for argument, labels in value}
    return sorted(value) if kind == "Set<String>" else value


def _needed(question: Question) -> str:
    """Whether the owner's words ask for the capability (`loket.findings`)."""
    found = question.findings.get("request")
    return "yes" if found is None else "delegated" if found.good else "no"


def _worst(question: Question) -> str:
    """The worst origin among the critical arguments that are present, or known to be absent."""
    findings, args = question.findings, question.args
    worst = -1
    for name in question.capability.critical:
        found = findings.get(name)
        if name in args or found is not None:
            worst = max(worst, _UNKNOWN_RANK if found is None else _RANK[found.origin])
    return _WORDS[worst] if worst >= 0 else NONE


def _hosts(question: Question) -> frozenset[str]:
    """The hosts of the web addresses among the critical arguments."""
    found: list[str] = []
    for name in question.capability.critical:
        value = question.args.get(name)
        texts = value if isinstance(value, list) else (value,)
        found += [plain_host(text) for text in texts if isinstance(text, str) and "://" in text]
    return frozenset(found)


def plain_host(url: str) -> str:
    """The host of a web address in one spelling: small letters, no dot at the end, addresses in their usual form.

    `http://2852039166/` and `http://[::ffff:a9fe:a9fe]/` are `169.254.169.254`; empty where there is none.
    """
    try:
        host = unicodedata.normalize("NFKC", urlsplit(url.strip()).hostname or "").replace("\u3002", ".")
    except ValueError:
        return ""
    host = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _number(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _number(host: str) -> str:
    """An address of IPv4 in one of its old spellings (one number, octal, hexadecimal), as the system reads it."""
    if not host[:1].isdigit():
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host
