"""Text files in an agent's own folder: `fs.read`, `fs.write` and `fs.list`.

A write is staged, marked, renamed: the text is synced under a temporary name that (run, ordinal) gives, then a row in
the agent's database says that the call is decided, then the file gets its name. So a call that is performed again
after a crash finds out where it stood: no row, and it starts anew; a row and a temporary file, and it renames; a row
alone, and it was done. No write happens twice, and none overwrites what came after it.
"""

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from loket.contracts import AgentStore, Answer, Call, Handler, Labels, Refusal, join_labels
from loket.providers.fs_paths import (
    check_file,
    check_system,
    entry,
    folder,
    looks,
    marks,
    open_file,
    parts_of,
    temporary,
    translated,
    walk,
)

FS_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE fs_applied (
        run TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) WITHOUT ROWID;
    CREATE TABLE fs_origin (path TEXT PRIMARY KEY, run TEXT NOT NULL, written REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX fs_origin_run ON fs_origin (run);
    """,
    """
    -- Size and time of change (nanoseconds since 1970) that the file had when it was written: with others it is the
    -- owner's. NULL where an earlier version wrote it.
    ALTER TABLE fs_origin ADD COLUMN size INTEGER;
    ALTER TABLE fs_origin ADD COLUMN modified INTEGER;
    """,
    """
    -- JSON lists: where the text came from, and its path.
    ALTER TABLE fs_origin ADD COLUMN labels TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE fs_origin ADD COLUMN path_labels TEXT NOT NULL DEFAULT '[]';
    """,
)
"""SQL scripts, oldest first; join them with those of other families that live in the same file."""

_MOST = 1 << 20
"""Bytes that one call reads or writes."""
_BLOCK = 4_096
"""Bytes that a file or a directory counts at least: an empty one takes room too."""
_CHARACTER = 4
"""Bytes of the longest character in UTF-8."""

_SLICE = 200
"""Files that are erased at a time: each is synced, and others come in between."""

_NOT_THIS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""How the system says that a path is no file any more, or leads through something else."""

_ORIGIN = "SELECT run, written, size, modified, labels, path_labels FROM fs_origin WHERE path = ?"
_SET_ORIGIN = """INSERT INTO fs_origin (path, run, written, size, modified, labels, path_labels)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (path) DO UPDATE SET run = excluded.run, written = excluded.written, size = excluded.size,
    modified = excluded.modified, labels = excluded.labels, path_labels = excluded.path_labels"""
_LABELS = "SELECT DISTINCT labels FROM fs_origin WHERE path = ?"
_LABELS_BELOW = "SELECT DISTINCT path_labels FROM fs_origin WHERE path >= ?1 || '/' AND path < ?1 || '0'"
_LABELS_ALL = "SELECT DISTINCT path_labels FROM fs_origin"
_OF_RUNS = """SELECT path, size, modified FROM fs_origin
    WHERE run IN (SELECT value FROM json_each(?)) AND path > ? ORDER BY path LIMIT ?"""
_FORGET_ORIGINS = """DELETE FROM fs_origin
    WHERE run IN (SELECT value FROM json_each(?)) AND path NOT IN (SELECT value FROM json_each(?))"""
_FORGET_APPLIED = "DELETE FROM fs_applied WHERE run IN (SELECT value FROM json_each(?))"


class FsProvider:
    """Performs `fs.*` in `root/<agent>/`, made on demand; `store` has `FS_MIGRATIONS`.

    An agent's files and directories take at most `quota_mb` MiB, each counted in blocks of 4 KiB. `now` gives the time
    of a write, in seconds since 1970.
    """

    id = "fs"

    def __init__(
        self, root: Path, store: AgentStore, *, quota_mb: int = 256, now: Callable[[], float] = time.time
    ) -> None:
        self._root = root
        self._store = store
        self._quota_mb = quota_mb
        self._now = now
        self._used: dict[str, int] = {}
        """Bytes by agent, counted at the first write and kept in step since. Changed under the agent's lease alone."""

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler, all synchronous."""
        return {"fs.read": self.read, "fs.write": self.write, "fs.list": self.entries}

    async def start(self) -> None:
        """Nothing to start: folders are made when they are needed."""

    async def close(self) -> None:
        """Nothing to close: the store belongs to whoever made it."""

    def read(self, call: Call) -> Answer:
        """Answers `text`, `size` (bytes of the file) and `more`.

        Characters stay whole: the next `offset` is this one plus the UTF-8 bytes of `text`, which are over `limit`
        (by 3 at most) only where it is shorter than one character. Raises `Refusal` for a path that is refused or
        missing, and for what is no UTF-8.
        """
        path, offset = call.args["path"], int(call.args.get("offset", 0))
        names = parts_of(path)
        check_system()
        with translated(path), folder(self._root, call.agent, names[:-1]) as directory:
            handle, found = open_file(directory, names[-1], path)
            try:
                data = _pread(handle, int(call.args.get("limit", _MOST)), min(offset, found.st_size))
            finally:
                os.close(handle)
        text = _decoded(data, path, offset)
        more = offset + len(data) < found.st_size
        labels = self._labels(call, _LABELS, "/".join(names))
        return Answer({"text": text, "size": found.st_size, "more": more}, labels)

    def write(self, call: Call) -> Answer:
        """Write a file, in the place of any that was there; parents are made. Answers `size`, in bytes.

        Raises `Refusal` for a path or text that is refused and where the quota is reached, `Failed` where the disk
        does not take it; the file is then as it was.
        """
        path, data = call.args["path"], _encoded(call.args["text"])
        names = parts_of(path)
        check_system()
        with translated(path), self._store.open(call.agent) as connection:
            if _decided(connection, call):
                self._finish(call, names)
                return Answer({"size": len(data)})
            growth = self._growth(call.agent, names, path, len(data))
            self._check_quota(call.agent, growth)
            with folder(self._root, call.agent, names[:-1], make=True) as directory:
                staged = temporary(call.run, call.ordinal)
                _stage(directory, staged, data)
                self._decide(connection, call, directory, (staged, names[-1]), len(data))
            self._used[call.agent] += growth
        return Answer({"size": len(data)})

    def entries(self, call: Call) -> Answer:
        """Answers `entries` after `after`, in the order of their names: `name`, `kind`, `size`, `modified`.

        What a module could not read (links, devices, names that are no plain ones) is left out.
        """
        path, after, limit = call.args.get("path", ""), call.args.get("after", ""), call.args.get("limit", 200)
        names = parts_of(path, directory=True)
        check_system()
        if not names and not (self._root / call.agent).exists():
            return Answer({"entries": []})
        entries: list[dict[str, Any]] = []
        with translated(path), folder(self._root, call.agent, names) as directory:
            found = os.listdir(directory)  # noqa: PTH208 - by descriptor, which pathlib cannot
            for name in sorted(name for name in found if name > after):
                if len(entries) == limit:
                    break
                entries += entry(directory, name)
        below = "/".join(names)
        return Answer({"entries": entries}, self._labels(call, *(_LABELS_BELOW, below) if below else (_LABELS_ALL,)))

    def _labels(self, call: Call, query: str, *bindings: str) -> Labels:
        """The labels that files were written with: those of a text, or of paths."""
        with self._store.open(call.agent) as connection:
            rows = connection.execute(query, bindings).fetchall()
        return join_labels((), *(tuple(json.loads(str(text))) for (text,) in rows))

    def writes(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        """The path that a journaled call wrote, and the directories on the way (`a/`): names are text too."""
        if capability != "fs.write":
            return []
        names = args["path"].split("/")
        return [args["path"], *("/".join([*names[:depth], ""]) for depth in range(1, len(names)))]

    def reads(self, capability: str, args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        """The paths that a journaled call showed: names are text as well."""
        if capability == "fs.read":
            return [args["path"]]
        below = "/".join([*parts_of(args.get("path", "").rstrip("/")), ""]) if args.get("path") else ""
        entries = answer.get("entries", ())
        return [below + entry["name"] + ("/" if entry["kind"] == "directory" else "") for entry in entries]

    def kept(self, agent: str, runs: Collection[str]) -> list[str]:
        """Paths of files that one of `runs` wrote last and the owner changed since: erasing leaves these alone."""
        found: list[str] = []
        with translated(""):
            for _connection, rows in self._written(agent, runs):
                found += [path for path, *written in rows if self._is_changed(agent, parts_of(path), written)]
        return found

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Delete the files that one of `runs` wrote last, what these runs left unfinished, and all rows about both.

        The deleted paths, sorted. Directories that are empty then go too: their names are text as well. What the owner
        changed since is left (see `kept`). Contents are not overwritten first: file systems that copy on write, and
        disks that level wear, put the new bytes elsewhere, so it would be slow and prove nothing; whoever needs that
        encrypts the disk. Safe to repeat after a crash. Raises `Failed` where a file cannot be deleted, after all
        others are; what is known of it is kept then, so that it can be repeated.
        """
        if (self._root / agent).exists():  # where the system cannot follow paths, nothing was written either
            check_system()
        gone: list[str] = []
        failed: dict[str, OSError] = {}
        for _connection, rows in self._written(agent, runs):
            for path, *written in rows:
                try:
                    gone += [path] if self._delete(agent, parts_of(path), written) else []
                except OSError as refused:
                    failed[path] = refused
        wanted = json.dumps(list(runs))
        with translated(""), self._store.open(agent) as connection:
            self._sweep(agent, marks(list(runs)))
            with connection:
                connection.execute(_FORGET_ORIGINS, (wanted, json.dumps(list(failed))))
                connection.execute(_FORGET_APPLIED, (wanted,))
            # The paths are still in the write-ahead log: bring it home and cut it off.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._used.pop(agent, None)
        for path, error in failed.items():
            with translated(path):
                raise error
        return gone

    def _written(self, agent: str, runs: Collection[str]) -> Iterator[tuple[apsw.Connection, list[Any]]]:
        """The files that one of `runs` wrote last, so many at a time, each time with the agent's connection held."""
        wanted, after = json.dumps(list(runs)), ""
        while True:
            with self._store.open(agent) as connection:
                rows = connection.execute(_OF_RUNS, (wanted, after, _SLICE)).fetchall()
                yield connection, rows
            if len(rows) < _SLICE:
                return
            after = str(rows[-1][0])

    # Writing

    def _growth(self, agent: str, names: tuple[str, ...], path: str, size: int) -> int:
        """Bytes by which the folder grows, counted in blocks. Raises `Refusal` for a target that is no plain file."""
        try:
            with folder(self._root, agent, names[:-1]) as directory:
                found = os.stat(names[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return _blocks(size) + _BLOCK * (len(names) - 1)  # the parents may be there: a recount finds out
        check_file(found, path)
        return _blocks(size) - _blocks(found.st_size)

    def _check_quota(self, agent: str, growth: int) -> None:
        quota = self._quota_mb << 20
        if agent not in self._used or self._used[agent] + growth > quota:
            self._used[agent] = self._count(agent)  # the owner may have removed or added files
        used = self._used[agent]
        if growth > 0 and used + growth > quota:
            raise Refusal(
                "fs.quota",
                f"the files of {agent} take {used:,} bytes, and {growth:,} more are over its quota of "
                f"{self._quota_mb} MiB (quota_mb = {self._quota_mb})",
                "write shorter files in the place of long ones, or have the owner remove some or raise the quota",
            )

    def _count(self, agent: str) -> int:
        try:
            with folder(self._root, agent, ()) as directory:
                return sum(_blocks(found.st_size) for _in, _name, found in walk(directory))
        except FileNotFoundError:
            return 0

    def _decide(
        self, connection: apsw.Connection, call: Call, directory: int, names: tuple[str, str], size: int
    ) -> None:
        """Write down that the call is decided, then give the staged file its name; both or none of it."""
        path = call.args["path"]
        labels = [json.dumps(call.labels_of(name)) for name in ("text", "path")]
        before = connection.execute(_ORIGIN, (path,)).fetchone()
        try:
            with connection:
                connection.execute("INSERT INTO fs_applied VALUES (?, ?, ?)", (call.run, call.ordinal, size))
                connection.execute(_SET_ORIGIN, (path, call.run, self._now(), *looks(directory, names[0]), *labels))
            _rename(directory, *names)
        except (OSError, apsw.Error):
            with contextlib.suppress(OSError):
                os.unlink(names[0], dir_fd=directory)
            _forget(connection, call, before)
            raise

    def _finish(self, call: Call, names: tuple[str, ...]) -> None:
        """Do what a crash left undone of a call that was decided: nothing where the staged file has gone."""
        staged = temporary(call.run, call.ordinal)
        with contextlib.suppress(FileNotFoundError), folder(self._root, call.agent, names[:-1]) as directory:
            _rename(directory, staged, names[-1])

    # Erasing

    def _delete(self, agent: str, names: tuple[str, ...], written: Sequence[int | None]) -> bool:
        """Delete a file as it was written, and the directories that are empty then; whether the file was deleted.

        Removed or replaced by the owner, it is not this file any more: a link is never followed, a directory stays.
        """
        deleted = False
        if self._is_changed(agent, names, written):
            return deleted
        try:
            with folder(self._root, agent, names[:-1]) as directory:
                if not stat.S_ISDIR(os.stat(names[-1], dir_fd=directory, follow_symlinks=False).st_mode):
                    os.unlink(names[-1], dir_fd=directory)
                    os.fsync(directory)
                    deleted = True
        except OSError as error:
            if error.errno not in _NOT_THIS:
                raise
        self._remove_empty(agent, names)
        return deleted

    def _remove_empty(self, agent: str, names: tuple[str, ...]) -> None:
        """Remove the directories of a path that are empty, the deepest first; the first that is not ends it."""
        for depth in range(len(names) - 1, 0, -1):
            try:
                with folder(self._root, agent, names[: depth - 1]) as above:
                    os.rmdir(names[depth - 1], dir_fd=above)
                    os.fsync(above)
            except FileNotFoundError:
                continue  # a crash came after it was removed
            except OSError:
                return

    def _is_changed(self, agent: str, names: tuple[str, ...], written: Sequence[int | None]) -> bool:
        """Whether there is a file, and it is not as it was `written` (size, time of change; None: not known)."""
        try:
            with folder(self._root, agent, names[:-1]) as directory:
                if stat.S_ISDIR(os.stat(names[-1], dir_fd=directory, follow_symlinks=False).st_mode):
                    return False
                return written[0] is not None and looks(directory, names[-1]) != tuple(written)
        except OSError as error:
            if error.errno not in _NOT_THIS:
                raise
        return False

    def _sweep(self, agent: str, beginnings: tuple[str, ...]) -> None:
        """Delete staged files of runs that never came back for them."""
        with contextlib.suppress(FileNotFoundError), folder(self._root, agent, ()) as top:
            for directory, name, found in walk(top):
                if name.startswith(beginnings) and not stat.S_ISDIR(found.st_mode):
                    os.unlink(name, dir_fd=directory)
                    os.fsync(directory)


def _pread(handle: int, limit: int, offset: int) -> bytes:
    """Read at most `limit` bytes, to the last whole character, but at least one character."""
    data = os.pread(handle, max(limit, _CHARACTER) + _CHARACTER, offset)
    if len(data) <= limit:
        return data
    end = limit
    while end > max(0, limit - _CHARACTER) and _continues(data[end]):
        end -= 1
    if end == 0:  # a character longer than the limit
        end = 1
        while end < len(data) and end < _CHARACTER and _continues(data[end]):
            end += 1
    return data[:end]


def _continues(byte: int) -> bool:
    """Whether a byte goes on with a character of UTF-8 that began before it."""
    return byte & 0xC0 == 0x80  # noqa: PLR2004 - the two bits that RFC 3629 gives such a byte


def _decoded(data: bytes, path: str, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if offset and error.start == 0 and _continues(data[0]):
            raise Refusal(
                "fs.offset",
                f"offset {offset} is in the middle of a character of {path}",
                "go on at the last offset plus the UTF-8 bytes of the text that was read there",
            ) from None
        raise Refusal(
            "fs.not_text",
            f"{path} is no text in UTF-8 (byte {offset + error.start})",
            "have the owner convert it to text",
        ) from None


def _encoded(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Refusal("args.text", "text holds half of a surrogate pair", "write whole characters") from None
    if len(data) > _MOST:
        raise Refusal(
            "fs.size",
            f"text takes {len(data):,} bytes of UTF-8; {_MOST:,} are allowed in one file",
            "write it in several files",
        )
    return data


def _blocks(size: int) -> int:
    return max(_BLOCK, -(-size // _BLOCK) * _BLOCK)


def _decided(connection: apsw.Connection, call: Call) -> bool:
    found = connection.execute("SELECT 1 FROM fs_applied WHERE run = ? AND ordinal = ?", (call.run, call.ordinal))
    return found.fetchone() is not None


def _forget(connection: apsw.Connection, call: Call, before: tuple[Any, ...] | None) -> None:
    """Take the rows of a call back, after its file could not get its name."""
    with connection:
        connection.execute("DELETE FROM fs_applied WHERE run = ? AND ordinal = ?", (call.run, call.ordinal))
        if before is None:
            connection.execute("DELETE FROM fs_origin WHERE path = ?", (call.args["path"],))
        else:
            connection.execute(_SET_ORIGIN, (call.args["path"], *before))


def _stage(directory: int, staged: str, data: bytes) -> None:
    """Write and sync the text under its temporary name, and that name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged, dir_fd=directory)  # of an attempt that was never decided
    handle = os.open(staged, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(staged, dir_fd=directory)
        raise


def _rename(directory: int, staged: str, name: str) -> None:
    os.rename(staged, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
