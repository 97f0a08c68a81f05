"""The words of lessons: what is said of an error, what is left out, and how it is read again.

A lesson's first line has one form, `CAPABILITY for WHAT was refused (CODE).`, which the stock agent reads too
(`guests/main/learned.py`). Arguments are named as far as they decide: of an address the host alone. No pattern finds
every secret; the values of the vault are left out for certain, and what looks like a key or a password besides.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loket.contracts import SCHEME_PORTS, Capability, Json, Match, Recorded, host_granted

MOST = 16
"""Lessons of one run, at most."""

Known = Callable[[str], Capability | None]
"""The capability of a name, where there is one."""

_CAUSE, _REMEDY, _WHAT, _CODE, _SUBJECT = 400, 300, 100, 80, 200
"""Characters of each part, at most."""

_WHOLE = ("grant.missing", "capability.", "arguments.", "limit.", "quota.", "module.", "token.", "policy.")
"""Codes that are about a capability as a whole, whatever it was asked for."""

_HIDDEN = "[left out]"
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@'\"<>]*@)?([^\s/?#'\"<>]*)[^\s'\"<>]*", re.IGNORECASE)
_NAMED = re.compile(
    r"(?i)\b(bearer\s+|basic\s+|(?:\w*(?:token|passw(?:or)?d|secret|api[ _-]?key|authorization))[\"']?\s*[:=]\s*)"
    r"(?:(?:bearer|basic)\s+)?[\"']?[^\s\"',;]{4,}"
)
_OPAQUE = re.compile(r"(?<![A-Za-z0-9+])(?=[A-Za-z+]*\d)(?=[0-9+]*[A-Za-z])[A-Za-z0-9+]{20,}=*")
"""Letters and digits mixed in one piece, too long for a word: keys, digests, ids of runs."""

_FIRST = re.compile(
    r"(?P<subject>\S+)(?: for (?P<what>.+))? (?P<how>was refused|failed|ended with an error) \((?P<code>[^()]+)\)\."
)
_SEEN = re.compile(r"^Seen (\d+) times", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an error of a run teaches. `how` is `was refused`, `failed` or `ended with an error`."""

    subject: str
    code: str
    what: str
    how: str
    cause: str
    remedy: str
    times: int = 1

    @property
    def key(self) -> str:
        return key_of(self.code, self.what)

    def text(self, seen: int, at: float) -> str:
        """The lesson in words, seen so often, the last time at `at` (seconds since 1970 UTC)."""
        what = f" for {self.what}" if self.what else ""
        day = dt.datetime.fromtimestamp(at, dt.UTC).date().isoformat()
        often = "Seen once" if seen == 1 else f"Seen {seen} times, last"
        lines = [f"{self.subject}{what} {self.how} ({self.code}).", f"Because: {self.cause}"]
        return "\n".join([*lines, f"Instead: {self.remedy}", f"{often} on {day}."])


@dataclass(frozen=True, slots=True)
class Told:
    """A lesson or a procedure as a brain has it."""

    id: int
    kind: str
    subject: str
    key: str
    run: str
    text: str
    code: str
    what: str
    refused: bool
    seen: int


def key_of(code: str, what: str) -> str:
    """The brain's key of a lesson: one live memory for each (capability, key)."""
    return f"lesson:{code}:{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def lessons_of(
    operation: str, history: Sequence[Recorded], error: Mapping[str, Any] | None, known: Known, secrets: Sequence[str]
) -> list[Lesson]:
    """What the calls of a run teach, and the error that it ended with, where that is not one of theirs."""
    found: dict[tuple[str, str], Lesson] = {}
    for lesson in _all(operation, history, error, known, secrets):
        before = found.get((lesson.subject, lesson.key))
        times = before.times + 1 if before else 1
        if before or len(found) < MOST:
            found[(lesson.subject, lesson.key)] = _times(lesson, times)
    return list(found.values())


def _times(lesson: Lesson, times: int) -> Lesson:
    return Lesson(lesson.subject, lesson.code, lesson.what, lesson.how, lesson.cause, lesson.remedy, times)


def _all(
    operation: str, history: Sequence[Recorded], error: Mapping[str, Any] | None, known: Known, secrets: Sequence[str]
) -> Iterator[Lesson]:
    failed = [(call, call.error) for call in history if call.error is not None]
    told_already = {(wrong["code"], wrong["message"]) for _call, wrong in failed}
    if error is not None and error["code"] != "run.stopped" and (error["code"], error["message"]) not in told_already:
        yield _lesson(operation, "", "ended with an error", error, secrets)
    for call, wrong in failed:
        how = "was refused" if wrong.get("kind") == "refusal" else "failed"
        what = what_of(known(call.capability), str(wrong["code"]), json.loads(call.args))
        yield _lesson(call.capability, what, how, wrong, secrets)


def _lesson(subject: str, what: str, how: str, error: Mapping[str, Any], secrets: Sequence[str]) -> Lesson:
    remedy = clean(str(error.get("remedy") or ""), _REMEDY, secrets) or "try another way, or tell the person"
    if how == "was refused" and error.get("blame") == "owner":
        remedy = f"do without it, or tell the person what would allow it: {remedy}"
    return Lesson(
        clean(subject, _SUBJECT, secrets).replace(" ", "_") or "?",
        re.sub(r"[^a-zA-Z0-9._-]", "_", str(error["code"]))[:_CODE] or "error",
        clean(what, _WHAT, secrets),
        how,
        clean(str(error["message"]), _CAUSE, secrets),
        remedy,
    )


def what_of(capability: Capability | None, code: str, args: Mapping[str, Any]) -> str:
    """What a call was about, as far as its error depends on it; empty where that is the capability as a whole.

    Of an address it is the host; of a key or a path that a grant does not cover, the part before the first slash,
    with it; else the argument that says which object.
    """
    if capability is None or code.startswith(_WHOLE):
        return ""
    for rule in capability.constraints:
        value = args.get(rule.argument)
        if rule.match is Match.HOST:
            return _host(value)
        if rule.match is not Match.PROVIDER and isinstance(value, str):
            before, slash, _after = value.partition("/")
            narrow = code == "grant.constraint" and rule.match is Match.PREFIX
            return before + slash if narrow else value
    return next((str(args[name]) for name in capability.critical if name in args), "")


def _host(url: object) -> str:
    """A host as grants name it: with its port where that is not the scheme's own."""
    try:
        parts = urlsplit(str(url))
        port = parts.port
    except ValueError:
        return ""
    name = (parts.hostname or "").rstrip(".")
    shown = f"[{name}]" if ":" in name else name
    return shown if port in (None, SCHEME_PORTS.get(parts.scheme)) else f"{shown}:{port}"


def clean(text: str, most: int, secrets: Sequence[str] = ()) -> str:
    """A text on one line, of at most so many characters, without secrets, and of addresses the host alone."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = _URL.sub(r"\1\2", " ".join(text.split()))
    text = _OPAQUE.sub(_HIDDEN, _NAMED.sub(lambda found: found.group(1) + _HIDDEN, text))
    return text if len(text) <= most else text[: most - 1] + "…"


def told(memory: Mapping[str, Any]) -> Told:
    """Read a memory that was written here."""
    text = str(memory["text"])
    first = _FIRST.fullmatch(text.partition("\n")[0])
    seen = _SEEN.search(text)
    key = str(memory.get("key") or "")
    return Told(
        int(memory["id"]),
        str(memory["kind"]),
        str(memory.get("subject") or ""),
        key,
        str(memory["run"]),
        text,
        key.split(":")[1] if key.count(":") else "",
        (first["what"] or "") if first else "",
        bool(first and first["how"] == "was refused"),
        int(seen[1]) if seen else 1,
    )


def resolved_by(history: Sequence[Recorded], source: str, known: Known) -> list[Told]:
    """Lessons (of this source) that a run recalled, and whose matter it then did with success."""
    held: dict[tuple[str, str], Told] = {}
    found: dict[tuple[str, str], Told] = {}
    for call in history:
        if call.answer is None:
            continue
        if call.capability == "brain.search":
            for memory in json.loads(call.answer)["memories"]:
                if memory["source"] == source and memory["kind"] == "lesson":
                    one = told(memory)
                    held[(one.subject, one.key)] = one
        for place, one in held.items():
            if place not in found and call.capability == one.subject and _same(call, one, known):
                found[place] = one
    return list(found.values())


def _same(call: Recorded, lesson: Told, known: Known) -> bool:
    """Whether a call is about what a lesson is about. Arguments that were wrong once say nothing of others."""
    if lesson.code.startswith(("arguments.", "limit.", "quota.")):
        return False
    what = clean(what_of(known(call.capability), lesson.code, json.loads(call.args)), _WHAT)
    return key_of(lesson.code, what) == lesson.key


def allows(constraints: Mapping[str, Json], lesson: Told, capability: Capability | None) -> bool:
    """Whether a grant within these constraints may settle what a lesson says was refused for want of it."""
    if lesson.code == "net.address":  # private places are listed with their port, hosts only where it is special
        return any(f"{lesson.what}{port}" in constraints.get("private", []) for port in ("", ":80", ":443"))
    if lesson.code == "net.secret":
        return bool(constraints.get("secrets"))
    if lesson.code not in ("grant.constraint", "net.host"):
        return lesson.code == "grant.missing"
    known = capability.constraints if capability is not None else ()
    rule = next((rule for rule in known if rule.match is not Match.PROVIDER), None)
    if rule is None or rule.name not in constraints:
        return rule is None or not rule.required
    texts = constraints[rule.name]
    if rule.match is Match.HOST:
        return host_granted(f"http://{lesson.what}", texts)
    narrow = rule.match is Match.PREFIX
    return any(text == lesson.what or (narrow and _overlap(text, lesson.what)) for text in texts)


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def advice(group: Sequence[Told]) -> dict[str, Any]:
    """The `procedure` that recurring lessons of one capability and code make, citing them by id."""
    first, last = group[0], group[-1]
    lines = last.text.splitlines()
    because = [line for line in lines if line.startswith(("Because: ", "Instead: "))]
    total = sum(one.seen for one in group)
    cited = ", ".join(str(one.id) for one in group)
    head = f"Before using {first.subject}{_whats(group)}: it did not work {total} times ({first.code})."
    return {
        "text": "\n".join([head, *because, f"Rests on {'memory' if len(group) == 1 else 'memories'} {cited}."]),
        "kind": "procedure",
        "subject": first.subject,
        "key": f"lessons:{first.code}",
    }


def rule_line(group: Sequence[Told]) -> str:
    """The line that is proposed for an agent's rules. It quotes no error: only names, codes and what was asked for."""
    first = group[0]
    return (
        f"Do not use {first.subject}{_whats(group)}: it is refused ({first.code}). "
        "Say what would allow it, instead of trying again."
    )


def _whats(group: Sequence[Told]) -> str:
    names = [one.what for one in group if one.what]
    return f" for {' or '.join(names[:8])}" if names else ""
