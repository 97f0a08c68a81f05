"""`users.db`: the users whom the owner made, roles, and who has which."""

import threading
from pathlib import Path
from typing import Any

from loket.store.database import open_database

MIGRATIONS = (
    """
    -- Times are seconds since 1970 (UTC). `principal` is written as `kind:id`: user:ana, agent:main, client:editor.
    CREATE TABLE user (
        name TEXT PRIMARY KEY, enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)), made REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE role (name TEXT PRIMARY KEY, description TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE member (
        principal TEXT NOT NULL, role TEXT NOT NULL REFERENCES role (name), PRIMARY KEY (principal, role)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX member_role ON member (role);
    INSERT INTO role VALUES ('reader', 'may read what agents keep');
    """,
)


class UserTable:
    """Users, roles and members. Thread-safe."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def users(self) -> list[dict[str, Any]]:
        """`name`, `enabled`, `made`, by name."""
        rows = self._query("SELECT name, enabled, made FROM user ORDER BY name")
        return [{"name": name, "enabled": bool(enabled), "made": made} for name, enabled, made in rows]

    def roles(self) -> list[dict[str, str]]:
        """`name`, `description`, by name."""
        rows = self._query("SELECT name, description FROM role ORDER BY name")
        return [{"name": name, "description": description} for name, description in rows]

    def members(self) -> list[tuple[str, str]]:
        """Principal and role, in order."""
        return self._query("SELECT principal, role FROM member ORDER BY principal, role")

    def add_user(self, name: str, roles: list[str], at: float) -> bool:
        """Make a user with these roles; False where there is one of this name."""
        with self._lock, self._connection:
            if self._query("SELECT 1 FROM user WHERE name = ?", (name,)):
                return False
            self._connection.execute("INSERT INTO user VALUES (?, 1, ?)", (name, at))
            for role in roles:
                self._connection.execute("INSERT OR IGNORE INTO member VALUES (?, ?)", (f"user:{name}", role))
        return True

    def drop_user(self, name: str) -> bool:
        """Remove a user with its roles; whether there was one."""
        roles = ("DELETE FROM member WHERE principal = ?", (f"user:{name}",))
        return self._change(roles, ("DELETE FROM user WHERE name = ?", (name,)))

    def enable(self, name: str, *, enabled: bool) -> bool:
        """Let a user do what its roles allow, or nothing; whether there is one."""
        return self._change(("UPDATE user SET enabled = ? WHERE name = ?", (int(enabled), name)))

    def set_role(self, name: str, description: str) -> None:
        """Make a role, or describe it anew."""
        sql = "INSERT INTO role VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET description = ?2"
        self._change((sql, (name, description)))

    def drop_role(self, name: str) -> bool:
        """Remove a role, and take it from all who have it; whether there was one."""
        members = ("DELETE FROM member WHERE role = ?", (name,))
        return self._change(members, ("DELETE FROM role WHERE name = ?", (name,)))

    def give(self, principal: str, role: str) -> None:
        """Give a role to a principal."""
        self._change(("INSERT OR IGNORE INTO member VALUES (?, ?)", (principal, role)))

    def take(self, principal: str, role: str) -> bool:
        """Take a role from a principal; whether it had it."""
        return self._change(("DELETE FROM member WHERE principal = ? AND role = ?", (principal, role)))

    def _change(self, *statements: tuple[str, tuple[object, ...]]) -> bool:
        """Do these in one transaction; whether the last one changed anything."""
        with self._lock:
            with self._connection:
                for sql, values in statements:
                    self._connection.execute(sql, values)
                changed: int = self._connection.changes()
            return changed > 0

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()
