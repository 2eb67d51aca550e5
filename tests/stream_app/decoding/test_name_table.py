"""The tables of names: the same numbers after they are emptied, spread over the table, bounded in bytes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.vocabulary import Index
from stream_app.decoding.name_table import NAME_BYTES, NameTable, _place, stable_hash


@given(st.lists(st.lists(st.none() | st.text(max_size=2) | st.integers(-5, 5), max_size=9), max_size=9))
@settings(deadline=None)
def test_names_forget_and_number_the_same(batches: list[list[str | int | None]]) -> None:
    """An emptied table gives the same hashes and numbers; an integer counts as its decimal string."""
    names = NameTable(lambda name: len(name) + 100, 99, limit=3)
    for batch in batches:
        hashes, index = names.look_up(batch)
        words = ["" if name is None else str(name) for name in batch]
        assert hashes.tolist() == [stable_hash(w) if w else 0 for w in words]
        assert index.tolist() == [len(w) + 100 if w else 99 for w in words]
        assert [names.name_of(h) for h in hashes.tolist()] == [w or None for w in words]
    assert names.name_of(12345) == "#0000000000003039"


def test_names_crafted_to_collide_are_spread() -> None:
    """Names whose stable hashes agree in their low half, which anybody can make, are spread over the table.

    The test counts probes: a table at most half full needs fewer than two for an existing name.
    """
    names = NameTable(lambda _: 1, 0)
    for i in range(5000):
        names.add(i << 32 | 0x12345678, f"i{i}")
    table, hashes, _, _, *key = names.columns
    mask = len(table) - 1
    taken = np.flatnonzero(table)
    home = [int(_place(hashes[table[at] - 1], *key, mask)) for at in taken.tolist()]
    assert ((taken - np.array(home)) & mask).mean() < 2


def test_names_are_bounded_in_bytes() -> None:
    """Few long names need the memory of many short ones: beyond the limit, all except the model's are forgotten."""
    names = NameTable(lambda _: 1, 0, vocabulary={stable_hash("known"): "known"}, max_bytes=20_000)
    most = 0
    for i in range(300):
        names.look_up([f"{i:0200d}"])
        most = max(most, len(names))
    assert most == -(-20_000 // (NAME_BYTES + 200))
    assert names.name_of(stable_hash("known")) == "known"


@given(st.lists(st.text(min_size=1, max_size=8), max_size=20), st.integers(1, 50))
def test_one_rule_for_buckets(names: list[str], buckets: int) -> None:
    """An unknown name has the same bucket by its text, as in the decoder, and by the hash in the state."""
    index = Index(["known"], buckets)
    hashes = np.array([stable_hash(name) for name in names], np.uint64)
    assert index.bucket_of(hashes).tolist() == [index.bucket(name) for name in names]
