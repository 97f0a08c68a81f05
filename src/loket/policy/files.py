"""The rules of a home: the floor and the default that come with Loket, and the files `policies/*.cedar` beside them."""

import difflib
import importlib.resources
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cedarpy import Schema, validate_policies

from loket.contracts import BadInput, Capability, Decision, LoketError, Question, Verdict
from loket.durable import sync_folder, write_private
from loket.policy.cedar import CedarPolicy
from loket.policy.entities import Budget, Members, groups, nobody
from loket.policy.rules import Rule, parse, parse_all, wrong
from loket.policy.schema import schema_of
from loket.policy.words import EFFECT_GROUP

FLOOR = "floor.cedar"
DEFAULT = "default.cedar"
APPROVED = "approved.cedar"
"""Where rules are kept that came from approvals."""

_RESERVED = {"floor.": FLOOR, "default.": DEFAULT}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}\.cedar")
_LARGEST = 1 << 20
"""Characters of a file of rules."""

BROKEN = "policy.broken"
"""Stands for the rule of every decision while the files cannot be read."""


def packaged(name: str) -> str:
    """The text of a file that comes with Loket: `floor.cedar` or `default.cedar`."""
    return importlib.resources.files("loket.policy").joinpath(name).read_text(encoding="utf-8")


def read_folder(folder: Path) -> dict[str, str]:
    """The files of a home by name. Raises `BadInput` for one that cannot be read."""
    return {path.name: _text(path) for path in sorted(folder.glob("*.cedar"))} if folder.is_dir() else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("policy.file", f"{path.name} cannot be read: {error}", f"mend or remove {path}") from None


def load(files: Mapping[str, str], capabilities: Iterable[Capability], *, later: bool = False) -> list[Rule]:
    """The floor, the default, and the rules of a home's files, checked. Raises `BadInput` for the first fault.

    A file named `default.cedar` stands in the place of Loket's own. `later` as in `faults`.
    """
    for fault in faults(files, capabilities, later=later):
        raise fault
    return [rule for name, text in _all(files).items() for rule in parse(name, text)]


def _all(files: Mapping[str, str]) -> dict[str, str]:
    own = {FLOOR: packaged(FLOOR), DEFAULT: files.get(DEFAULT, packaged(DEFAULT))}
    return {**own, **{name: text for name, text in files.items() if name not in own}}


def faults(files: Mapping[str, str], capabilities: Iterable[Capability], *, later: bool = False) -> Iterator[BadInput]:
    """All that is wrong with a home's files: each with the file, the line, what is wrong and what to do.

    `later`: rules may name capabilities in families that nobody has now, of a module that is not installed any more or
    of a server that is not connected yet; without it those are faults, as slips of the pen are.
    """
    known = list(capabilities)
    places: dict[str, Rule] = {}
    schema: Schema | None = None
    if FLOOR in files:
        yield wrong(FLOOR, 1, "the floor comes with Loket and cannot be replaced", "give the file another name")
    for name, text in _all(files).items():
        if len(text) > _LARGEST:
            yield BadInput("policy.file", f"{name} has more than 1 MiB", "split it into several files")
            continue
        rules, unread = parse_all(name, text)
        yield from unread
        for rule in rules:
            yield from _misplaced(rule, places)
            if name in files and not (later and _awaited(rule, known)):
                schema = schema or Schema.from_str(schema_of(known))
                yield from _mistyped(rule, schema, known)


def _misplaced(rule: Rule, places: dict[str, Rule]) -> Iterator[BadInput]:
    """A second rule with an id, or one with the beginning of an id that belongs to another file."""
    other = places.setdefault(rule.id, rule)
    if other is not rule:
        yield wrong(rule.file, rule.line, f"the id {rule.id!r} is that of {other.place} too", "give it another @id")
    for beginning, file in _RESERVED.items():
        if rule.id.startswith(beginning) and rule.file != file:
            yield wrong(rule.file, rule.line, f"ids that begin with {beginning!r} are those of {file}", "rename it")


def _mistyped(rule: Rule, schema: Schema, capabilities: Sequence[Capability]) -> Iterator[BadInput]:
    result = validate_policies(rule.text, schema)
    said = list(dict.fromkeys(re.sub(r"^for policy `policy0`, ", "", error.error) for error in result.errors))
    if said:
        yield wrong(rule.file, rule.line, f"{rule.id}: {said[0]}", _help(rule, capabilities))


def _awaited(rule: Rule, capabilities: Sequence[Capability]) -> bool:
    """Whether a rule names something in a family that nobody has now."""
    families = {capability.family for capability in capabilities}
    names = [name for name in rule.actions or () if not name.startswith(EFFECT_GROUP)]
    return any(name.partition(".")[0] not in families for name in names)


def _help(rule: Rule, capabilities: Sequence[Capability]) -> str:
    """The nearest capability where one is not there, else where to read."""
    known = {name for capability in capabilities for name in (capability.id, *groups(capability))}
    for name in sorted((rule.actions or frozenset()) - known):
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
        return f'write Action::"{near[0]}"; `loket caps` lists them'
    return "docs/policy.md lists what a rule can say of each capability"


def check_name(name: str) -> None:
    """Raise `BadInput` where a file of rules cannot have this name."""
    if not _NAME.fullmatch(name) or name == FLOOR:
        raise BadInput("policy.name", f"{name!r} is no name for a file of rules", "call it mine.cedar, for instance")


class HomePolicy:
    """The policy of a home. `load` takes in what its files say now; where they are broken, everything is denied."""

    def __init__(
        self,
        folder: Path,
        capabilities: Callable[[], Iterable[Capability]],
        *,
        members: Members = nobody,
        now: Callable[[], float] = time.time,
        budget: Budget | None = None,
    ) -> None:
        self.folder = folder
        self.capabilities = capabilities
        self.error: LoketError | None = None
        """Why the files cannot be used; None where they are."""
        self._members, self._now, self._budget = members, now, budget
        self._lock = threading.Lock()
        self._changing = threading.RLock()
        self.load()

    def load(self) -> None:
        """Read the files again; the next decision is by them."""
        with self._lock:
            try:
                made: CedarPolicy | Closed = self.made(read_folder(self.folder))
                self.error = None
            except BadInput as error:
                self.error, made = error, Closed(error)
            self.current = made

    def made(self, files: Mapping[str, str], now: Callable[[], float] | None = None) -> CedarPolicy:
        """The policy that these files would make. Raises `BadInput`."""
        rules = load(files, self.capabilities(), later=True)
        return CedarPolicy(rules, members=self._members, now=now or self._now, budget=self._budget)

    # Changing it

    def put(self, name: str, text: str, *, replace: bool = False) -> list[Rule]:
        """Keep a file of rules, checked together with the others, from the next decision on; its rules.

        Raises `BadInput`, where nothing is changed: a name or a rule that is wrong, or a file that is there already.
        """
        check_name(name)
        with self._changing:
            files = read_folder(self.folder)
            if name in files and not replace:
                raise BadInput("policy.exists", f"there is a file {name} already", "add --replace, or rename it")
            load({name: text}, self.capabilities())
            load({**files, name: text}, self.capabilities(), later=True)
            self._write(name, text)
        return parse(name, text)

    def save_rule(self, name: str, text: str) -> Rule:
        """Add one rule to `approved.cedar`, under a comment that names where it came from; the same one only once.

        Raises `BadInput`.
        """
        rules = parse(APPROVED, text)
        if len(rules) != 1:
            raise BadInput("policy.rule", f"{len(rules)} rules were given, and one is needed", "loket policy add FILE")
        with self._changing:
            files = read_folder(self.folder)
            held = files.get(APPROVED, "")
            if rules[0].text not in [rule.text for rule in parse(APPROVED, held)]:
                note = "".join(sign for sign in name if sign.isprintable())
                load({APPROVED: text}, self.capabilities())
                text = f"{held.rstrip()}\n\n// {note}\n{rules[0].text}\n".lstrip()
                load({**files, APPROVED: text}, self.capabilities(), later=True)
                self._write(APPROVED, text)
                held = text
        return next(rule for rule in parse(APPROVED, held) if rule.text == rules[0].text)

    def remove(self, name: str) -> list[Rule]:
        """Take away a file, or the one rule with this id; what was taken away.

        What is broken can be removed too. Raises `BadInput` where there is no such file or rule.
        """
        with self._changing:
            files = read_folder(self.folder)
            if name in files:
                (self.folder / name).unlink()
                sync_folder(self.folder)
                self.load()
                return []
            for file, text in files.items():
                for rule in parse_all(file, text)[0]:
                    if rule.id == name:
                        self._write(file, text.replace(rule.text, "", 1))
                        return [rule]
        raise BadInput("policy.unknown", f"the home has no file and no rule {name!r}", "loket policy show")

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.folder / name, text.encode())
        self.load()

    def decide(self, question: Question) -> Decision:
        return self.current.decide(question)

    @property
    def digest(self) -> str:
        return self.current.digest


class Closed:
    """Denies everything, because the home's rules cannot be read: nobody knows what they would forbid."""

    digest = ""

    def __init__(self, error: LoketError) -> None:
        reason = f"the policy is broken, so nothing is allowed: {error.message}"
        remedy = f"loket policy check  # {error.remedy}"
        self._decision = Decision(Verdict.DENY, (BROKEN,), reason, "", (), remedy)

    def decide(self, question: Question) -> Decision:
        del question  # whatever it is
        return self._decision
