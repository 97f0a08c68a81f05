"""An audit that can be proved: signed checkpoints over a Merkle tree of the journal's rows, and exports with proofs."""

from loket.audit.auditor import Auditor
from loket.audit.checkpoint import Checkpoint, PublicKey, key_of, open_note, parse_key, sign
from loket.audit.proof import Proved, verify_export

__all__ = [
    "Auditor",
    "Checkpoint",
    "Proved",
    "PublicKey",
    "key_of",
    "open_note",
    "parse_key",
    "sign",
    "verify_export",
]
