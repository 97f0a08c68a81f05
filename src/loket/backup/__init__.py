"""Backup of a home while it is used, and restoring one into a new home. See `docs/backup.md`."""

from loket.backup.manifest import Manifest, read_manifest, verify_files
from loket.backup.restore import restore
from loket.backup.take import Parts, take

__all__ = ["Manifest", "Parts", "read_manifest", "restore", "take", "verify_files"]
