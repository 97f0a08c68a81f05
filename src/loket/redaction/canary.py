"""Canaries: a value in an agent's own texts that has no business anywhere else."""

import hmac

_LETTERS = "23456789BCDFGHJKMNPQRTVWXYZFGHJK"
"""32 signs without vowels, so that no code spells a word; a few stand twice."""

_GROUPS = 4


def canary(key: bytes, agent: str) -> str:
    """A code such as `K7QX-M2ZD-T9WP-R4HB`, the same for the same key and agent.

    It is the beginning of HMAC-SHA-256 over the agent's id, about 75 bits, in groups of four. It looks like a
    reference of an order, and says nothing about the key or the agent to whoever reads it.
    """
    digest = hmac.digest(key, b"loket canary\0" + agent.encode(), "sha256")
    signs = [_LETTERS[byte % len(_LETTERS)] for byte in digest[: 4 * _GROUPS]]
    return "-".join("".join(signs[at : at + 4]) for at in range(0, len(signs), 4))
