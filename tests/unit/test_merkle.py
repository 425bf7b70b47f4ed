"""The Merkle tree agrees with the recursive definition of RFC 6962 for every size up to 70."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.merkle import MerkleRange, compute_inclusion_path, compute_root
from streams.proof.audit.verifier import Refused, climb


def defined_root(leaves: list[bytes]) -> bytes:
    """Return the root by the definition of MTH in RFC 6962, 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = max(2**power for power in range(10) if 2**power < len(leaves))
    return sha256(b"\x01" + defined_root(leaves[:split]) + defined_root(leaves[split:])).digest()


def defined_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Return the path by the definition of PATH in RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    split = max(2**power for power in range(10) if 2**power < len(leaves))
    if index < split:
        return [*defined_path(index, leaves[:split]), defined_root(leaves[split:])]
    return [*defined_path(index - split, leaves[split:]), defined_root(leaves[:split])]


def leaves_of(size: int) -> list[bytes]:
    return [sha256(bytes([number])).digest() for number in range(size)]


@pytest.mark.parametrize("size", range(71))
def test_roots_paths_and_climbs_are_those_of_the_definition(size: int) -> None:
    leaves = leaves_of(size)
    assert compute_root(leaves) == defined_root(leaves)
    for index in range(size):
        path = compute_inclusion_path(leaves, index)
        assert path == defined_path(index, leaves)
        place = {"index": index, "size": size, "path": [step.hex() for step in path]}
        assert climb(leaves[index], place) == compute_root(leaves)


@given(st.lists(st.binary(max_size=40), max_size=70), st.integers(0, 70))
def test_a_tree_that_was_stored_in_between_grows_the_same(leaves: list[bytes], cut: int) -> None:
    tree = MerkleRange()
    tree.extend(leaves[:cut])
    again = MerkleRange(tree.size, tree.peaks)
    again.extend(leaves[cut:])
    assert again.size == len(leaves)
    assert again.root() == defined_root(leaves)


def test_peaks_that_do_not_fit_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match="not the peaks of 3 leaves"):
        MerkleRange(3, bytes(32))


@given(st.integers(2, 70), st.data())
def test_a_path_of_another_leaf_or_size_leads_elsewhere(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda number: number != index))
    path = [step.hex() for step in compute_inclusion_path(leaves, index)]
    try:
        root = climb(leaves[other], {"index": index, "size": size, "path": path})
    except Refused:
        return
    assert root != compute_root(leaves)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (-1, 4), (4, 4), (True, 2), (0.0, 2)])
def test_a_leaf_outside_its_tree_is_refused(place: tuple[int, int]) -> None:
    with pytest.raises(Refused):
        climb(b"", {"index": place[0], "size": place[1], "path": []})


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_path_of_another_length_is_refused(change: str) -> None:
    leaves = leaves_of(9)
    path = [step.hex() for step in compute_inclusion_path(leaves, 3)]
    path = [*path, path[0]] if change == "longer" else path[:-1]
    with pytest.raises(Refused, match=change):
        climb(leaves[3], {"index": 3, "size": 9, "path": path})
