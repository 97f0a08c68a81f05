"""The Merkle tree over the journal's row hashes, with proofs: RFC 6962, section 2.1. Pure functions of bytes.

A tree's root stands for all rows up to its size and for their order. An inclusion proof shows that a row is in it, a
consistency proof that a smaller tree is its beginning; each has about log2(size) hashes of 32 bytes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

_SIZE: Final = 32

EMPTY: Final = hashlib.sha256(b"").digest()
"""The root of the tree without rows."""


def leaf(row_hash: bytes) -> bytes:
    """The hash of a leaf. Its first byte differs from that of a node, so that neither passes for the other."""
    return hashlib.sha256(b"\x00" + row_hash).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Range:
    """The right edge of a growing tree: at most log2(size) hashes, from which its root follows at any moment."""

    __slots__ = ("_edge", "size")

    def __init__(self) -> None:
        self._edge: list[bytes] = []
        self.size = 0

    def append(self, row_hash: bytes) -> None:
        """Add a row at the end; about two hashes, made in place: of all here, only this is done for each row."""
        top = hashlib.sha256(b"\x00" + row_hash).digest()
        size = self.size
        while size & 1:
            top = hashlib.sha256(b"\x01" + self._edge.pop() + top).digest()
            size >>= 1
        self._edge.append(top)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree so far."""
        if not self._edge:
            return EMPTY
        top = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            top = node(left, top)
        return top


class Tree:
    """A whole tree in memory (64 bytes a row), for proofs."""

    def __init__(self, row_hashes: Iterable[bytes]) -> None:
        leaves = bytearray()
        for row_hash in row_hashes:
            leaves += leaf(row_hash)
        self.size = len(leaves) // _SIZE
        self._levels = [leaves]
        """The hashes of all complete subtrees, by their height."""
        while len(self._levels[-1]) >= 2 * _SIZE:
            self._levels.append(_above(self._levels[-1]))

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` rows, or of all."""
        size = self.size if size is None else size
        return self._hash(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that row `index` (from 0) is in the tree of the first `size` rows. Raises `IndexError`."""
        if not 0 <= index < size <= self.size:
            raise IndexError(f"row {index} in a tree of {size} of {self.size}")
        return self._path(index, 0, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `old` rows is the beginning of that of `new` rows. Raises `IndexError`."""
        if not 0 <= old <= new <= self.size:
            raise IndexError(f"a tree of {old} in one of {new} of {self.size}")
        return self._subproof(old, 0, new, whole=True) if 0 < old < new else []

    def _hash(self, start: int, end: int) -> bytes:
        """The root of the rows from `start` to before `end`; `start` is where such a subtree can begin."""
        width = end - start
        height = width.bit_length() - 1
        if width == 1 << height:
            place = (start >> height) * _SIZE
            return bytes(self._levels[height][place : place + _SIZE])
        middle = start + _split(width)
        return node(self._hash(start, middle), self._hash(middle, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._hash(middle, end)]
        return [*self._path(index, middle, end), self._hash(start, middle)]

    def _subproof(self, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        """SUBPROOF of the RFC; `whole` where the old root itself is the subtree, which the verifier has."""
        if old == end:
            return [] if whole else [self._hash(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._subproof(old, start, middle, whole=whole), self._hash(middle, end)]
        return [*self._subproof(old, middle, end, whole=False), self._hash(start, middle)]


def _above(level: bytearray) -> bytearray:
    made = bytearray()
    for place in range(0, len(level) - 2 * _SIZE + 1, 2 * _SIZE):
        made += hashlib.sha256(b"\x01" + level[place : place + 2 * _SIZE]).digest()
    return made


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def is_included(row_hash: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that a row is at `index` (from 0) in the tree with this size and root (RFC 9162, 2.1.3)."""
    if not 0 <= index < size:
        return False
    place, last, top = index, size - 1, leaf(row_hash)
    for other in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            top = node(other, top)
            place, last = _climbed(place, last)
        else:
            top = node(top, other)
        place, last = place >> 1, last >> 1
    return last == 0 and top == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that one tree is the beginning of another (RFC 9162, section 2.1.4)."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        return not proof and old_root == (new_root if old == new else EMPTY)
    hashes = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not hashes:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    small = large = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            small, large = node(other, small), node(other, large)
            place, last = _climbed(place, last)
        else:
            large = node(large, other)
        place, last = place >> 1, last >> 1
    return last == 0 and small == old_root and large == new_root


def _climbed(place: int, last: int) -> tuple[int, int]:
    """Up to where the node is a right child: a tree that is not full has no nodes in between."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last
