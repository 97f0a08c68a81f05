"""Ids of runs: 20 digits of base 32 (Crockford's alphabet, small letters), of which the first 9 say when.

The time is in milliseconds since 1970 UTC, so ids sort by the time at which their runs were accepted.
"""

import hashlib
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME, _REST = 9, 11
"""Digits of the time, and of what tells runs of one moment apart; 5 bits each."""


def new_id(now: float) -> str:
    """A fresh id of a run that is accepted `now` (seconds since 1970 UTC), with 55 bits of randomness."""
    number = (int(now * 1000) << 5 * _REST) | secrets.randbits(5 * _REST)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_TIME + _REST)))


def derived_id(run: str, ordinal: int, agent: str = "") -> str:
    """The id of the run that a call starts (of an agent, where it starts several): always the same for a call.

    It begins with the time of the run that starts it, as ids do, and ends in 55 bits of SHA-256 over all three.
    """
    digest = hashlib.sha256(f"{run}/{ordinal}/{agent}".encode()).digest()
    return run[:_TIME] + "".join(_ALPHABET[byte % 32] for byte in digest[:_REST])
