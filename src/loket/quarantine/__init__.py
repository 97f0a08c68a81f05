"""The quarantine: what a poisoned source left in the stores is set aside, kept, and can be given back."""

from loket.quarantine.names import writers
from loket.quarantine.store import Held, Quarantine, Thing

__all__ = ["Held", "Quarantine", "Thing", "writers"]
