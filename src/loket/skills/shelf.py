"""All skills of a home: where they lie, which of them the owner approved, and which agent knows of which.

    skills/shared/NAME/       every agent's
    skills/agents/AGENT/NAME/ one agent's
    skills/approved.json      place to the digest of the files that the owner approved
    packages/AGENT/.../skills an agent's own, which come with its package: installing it approves them

A skill module's `SKILL.md` is told to the agents that were granted one of its operations.
"""

import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import OWNER, BadInput, Labels, LoketError, command
from loket.durable import write_private
from loket.packages.change import Change, What
from loket.packages.manifest import ID
from loket.skills.folder import FILE, Skill, read_skill

SHARED = "shared"
_AGENTS = "agents"
_PACKAGE = "package"
_MODULE = "module"
_MOST_SAID = 8_000
"""Characters of the list of skills that an agent is told."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A skill where it lies. `place` is its key in the list of approvals, `agent` whose it is (None: everybody's).

    `state` is `approved`, `changed` (its files are others than those that the owner approved) or `broken`, and `error`
    then why. `labels` go with all that it says.
    """

    place: str
    name: str
    agent: str | None
    state: str
    labels: Labels
    skill: Skill | None = None
    error: LoketError | None = None


class Skills:
    """The skills below `root`. `granted` gives the capabilities that an agent was granted. Thread-safe.

    `now` is in seconds since 1970.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], float],
        granted: Callable[[str], Collection[str]] = lambda _agent: (),
    ) -> None:
        self._root = root
        self._now = now
        self._granted = granted
        self._packaged: dict[str, Change] = {}
        self._read: dict[Path, tuple[tuple[Any, ...], Skill]] = {}
        self._lock = threading.RLock()

    # Modules

    def follow(self, name: str, change: Change) -> None:
        """Take up a change of the installed modules: a package's skills are approved when it is first installed.

        Those of an upgrade that say something else wait for the owner's word.
        """
        with self._lock:
            approved = self._approved()
            mine = [place for place in approved if place.startswith((f"{_PACKAGE}/{name}/", f"{_MODULE}/{name}"))]
            if change.what is What.REMOVED:
                self._packaged.pop(name, None)
                self._write({place: said for place, said in approved.items() if place not in mine})
                return
            self._packaged[name] = change
            fresh = {} if mine else {kept.place: self._said(kept.skill, name) for kept in self._of(name) if kept.skill}
            if fresh:
                self._write({**approved, **fresh})

    def _of(self, name: str) -> Iterator[Kept]:
        """The skills of an installed module: those in an agent's package, or a skill module's own."""
        change = self._packaged.get(name)
        if change is None:
            return
        folder, manifest = change.package.folder, change.package.manifest
        if manifest.kind != "agent" and (folder / FILE).is_file():
            yield self._kept(folder, f"{_MODULE}/{name}", name, None, module=name)
        if manifest.kind == "agent" and (folder / "skills").is_dir():
            for one in sorted((folder / "skills").iterdir()):
                if one.is_dir():
                    yield self._kept(one, f"{_PACKAGE}/{name}/{one.name}", one.name, name)

    # Which there are

    def all(self) -> list[Kept]:
        """All skills, the shared ones first."""
        with self._lock:
            places = [(SHARED, None), *((f"{_AGENTS}/{one.name}", one.name) for one in self._in(_AGENTS))]
            found = [
                self._kept(folder, f"{place}/{folder.name}", folder.name, agent)
                for place, agent in places
                for folder in self._in(place)
            ]
            return [*found, *(kept for name in sorted(self._packaged) for kept in self._of(name))]

    def _in(self, place: str) -> list[Path]:
        folder = self._root / place
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(one for one in found if one.is_dir() and not one.is_symlink() and not one.name.startswith("."))

    def _kept(self, folder: Path, place: str, name: str, agent: str | None, *, module: str | None = None) -> Kept:
        said = self._approved().get(place, {})
        labels: Labels = tuple(said.get("labels") or (f"skill:{name}",))
        try:
            skill = self._skill(folder, module)
        except LoketError as error:
            return Kept(place, name, agent, "broken", labels, None, error)
        state = "approved" if said.get("digest") == skill.digest else "changed"
        return Kept(place, name, agent, state, labels, skill)

    def _skill(self, folder: Path, module: str | None) -> Skill:
        """A skill, read again where a file of it has changed: its size, its time or its number on the disk."""
        seen = tuple(
            (path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns, stat.st_ino)
            for path in ([folder / FILE] if module is not None else sorted(folder.rglob("*")))
            for stat in [path.lstat()]
        )
        known = self._read.get(folder)
        if known is None or known[0] != seen:
            known = self._read[folder] = (seen, read_skill(folder, module=module))
        return known[1]

    def of(self, agent: str) -> dict[str, Kept]:
        """The approved skills that an agent knows of, by name; of one name its own counts before everybody's."""
        known = [kept for kept in self.all() if kept.state == "approved" and self._knows(agent, kept)]
        found = {kept.name: kept for kept in known if kept.agent is None}
        return {**found, **{kept.name: kept for kept in known if kept.agent is not None}}

    def _knows(self, agent: str, kept: Kept) -> bool:
        if kept.place.startswith(f"{_MODULE}/"):
            return any(name.startswith(f"{kept.name}.") for name in self._granted(agent))
        return kept.agent in (None, agent)

    def known(self, agent: str) -> list[tuple[str, str]]:
        """Names and descriptions of the skills that an agent knows of."""
        return [(name, kept.skill.description) for name, kept in sorted(self.of(agent).items()) if kept.skill]

    def words(self, agent: str) -> str:
        """What an agent is told before it chooses: names and descriptions. Empty where it may read none."""
        known = self.known(agent) if "skill.read" in self._granted(agent) else []
        lines = [f"- {name}: {description}" for name, description in known]
        if not lines:
            return ""
        told = "\n".join(lines)[:_MOST_SAID]
        return f"Skills: instructions for some kinds of work. Where one fits, read it first (skill.read).\n{told}"

    def find(self, agent: str, name: str) -> Kept:
        """An approved skill that an agent knows of. Raises `BadInput`."""
        found = self.of(agent)
        if name not in found:
            have = ", ".join(sorted(found)) or "none"
            raise BadInput("skill.unknown", f"{agent} knows of no skill {name[:100]!r}", f"it knows of: {have}")
        return found[name]

    def listed(self, name: str, agent: str | None = None) -> Kept:
        """A skill by name for the owner, approved or not. Raises `BadInput`."""
        found = [kept for kept in self.all() if kept.name == name]
        chosen = [kept for kept in found if agent is None or kept.agent == agent] or found
        if not chosen:
            raise BadInput("skill.unknown", f"there is no skill {name[:100]!r}", command("skills", "list"))
        return chosen[0]

    # What the owner does

    def add(self, folder: Path, agent: str | None, *, own: bool) -> Kept:
        """Copy a skill's folder into the home, and approve it as it is. With `own` its words are the owner's.

        Raises `BadInput` for what is no skill. One of the same name is replaced.
        """
        skill = read_skill(folder)
        if agent is not None and not ID.fullmatch(agent):
            raise BadInput("agent.unknown", f"{agent[:80]!r} is no agent's id", "loket agents")
        place = f"{_AGENTS}/{agent}/{skill.name}" if agent is not None else f"{SHARED}/{skill.name}"
        with self._lock:
            target = self._root / place
            fresh = target.with_name(f".{target.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True, mode=0o700)
            for one in skill.files:
                (fresh / one.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / one.path, fresh / one.path)
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
            labels = [str(OWNER)] if own else [f"skill:{skill.name}"]
            said = {"digest": skill.digest, "at": self._now(), "from": str(folder), "labels": labels}
            self._write({**self._approved(), place: said})
        return self.listed(skill.name, agent)

    def approve(self, name: str, agent: str | None, digest: str | None) -> Kept:
        """Approve a skill as it lies there now; `digest` is that of what the owner was shown. Raises `BadInput`."""
        with self._lock:
            kept = self.listed(name, agent)
            if kept.error is not None or kept.skill is None:
                raise kept.error or BadInput("skill.missing", f"{name} cannot be read", None)
            if digest is not None and digest != kept.skill.digest:
                raise BadInput("skill.changed", f"{name} has changed since it was shown", f"loket skills show {name}")
            held = self._approved()
            self._write({**held, kept.place: {**held.get(kept.place, {}), **self._said(kept.skill, None)}})
            return self.listed(name, agent)

    def remove(self, name: str, agent: str | None) -> str:
        """Take a skill out of the home; its place. Raises `BadInput` for one that comes with a package."""
        with self._lock:
            kept = self.listed(name, agent)
            if kept.place.startswith((_PACKAGE, _MODULE)):
                module = kept.place.split("/")[1]
                raise BadInput("skill.package", f"{name} comes with {module}", command("remove", module))
            shutil.rmtree(self._root / kept.place)
            held = self._approved()
            self._write({place: said for place, said in held.items() if place != kept.place})
            return kept.place

    # Approvals

    def _said(self, skill: Skill, module: str | None) -> dict[str, Any]:
        labels = {} if module is None else {"labels": [f"skill:{skill.name}"], "from": module}
        return {"digest": skill.digest, "at": self._now(), **labels}

    @property
    def _file(self) -> Path:
        return self._root / "approved.json"

    def _approved(self) -> Mapping[str, dict[str, Any]]:
        """Place to what the owner said; nothing is approved where that cannot be read."""
        try:
            found = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, approved: Mapping[str, Any]) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file, json.dumps(approved, indent=1, sort_keys=True).encode())
