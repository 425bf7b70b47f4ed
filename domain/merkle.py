"""Merkle trees as in RFC 6962, section 2.1: leaves are hashed after a 0 byte, nodes after a 1 byte."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of a tree without leaves."""


def hash_node(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two subtrees."""
    return sha256(b"\x01" + left + right).digest()


class MerkleRange:
    """A tree that grows leaf by leaf; it holds only the roots of its complete subtrees, largest first.

    The sizes of these subtrees are the powers of two that add up to `size`, so `peaks` and `size` are the whole state.
    """

    def __init__(self, size: int = 0, peaks: bytes = b"") -> None:
        if len(peaks) != HASH_BYTES * size.bit_count():
            raise ValueError(f"{len(peaks)} bytes are not the peaks of {size} leaves")
        self.size = size
        self._peaks = [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)]

    @property
    def peaks(self) -> bytes:
        """The roots of the complete subtrees, largest first, joined."""
        return b"".join(self._peaks)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves, given by their data."""
        peaks = self._peaks
        for data in leaves:
            carried = sha256(b"\x00" + data).digest()
            size = self.size
            while size & 1:
                carried = sha256(b"\x01" + peaks.pop() + carried).digest()
                size >>= 1
            peaks.append(carried)
            self.size += 1

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = hash_node(peak, root)
        return root


def compute_root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaves, given by their data."""
    tree = MerkleRange()
    tree.extend(leaves)
    return tree.root()


def compute_inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf `index`, from its sibling up to the root's child (RFC 6962, 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    first, end = 0, len(leaves)
    path = []
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            path.append(compute_root(leaves[middle:end]))
            end = middle
        else:
            path.append(compute_root(leaves[first:middle]))
            first = middle
    path.reverse()
    return path


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)
