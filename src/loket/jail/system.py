"""What of this machine every command may read: its programs and libraries, and nothing in which people keep things."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROGRAMS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Beside `/usr`: links into it on most systems, folders on others."""

SETTINGS = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
"""Of `/etc`, what loaders, resolvers of names and libraries of TLS read. `/etc/ssl/private` is not among it."""

RESOLVER = ("/etc/host.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/services", "/run/systemd/resolve")
"""What a command with network reads beside it."""

PROCESS = (
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/vm/overcommit_memory",
)
"""Of `/proc`, where the command does not get one of its own: itself, and what is known of the machine."""

MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/vmallocinfo",
    "/proc/vmcore",
)
"""Of a `/proc` of its own, what root could read about the machine even without any capability."""

DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom")
ZERO = "/dev/zero"
"""Mapped, it is memory that no process is charged for: only where control groups count it."""


def programs() -> Iterator[tuple[Path, str | None]]:
    """The folders of programs, each with where its link points to, or None where it is a folder itself."""
    yield Path("/usr"), None
    for path in map(Path, _PROGRAMS):
        if path.is_symlink():
            yield path, os.readlink(path)  # noqa: PTH115 - as it is spelled, and not as a path
        elif path.is_dir():
            yield path, None
