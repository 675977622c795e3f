"""What a row takes is seen in the memory of this process, whatever happened there before."""

from __future__ import annotations

from edge_node.worker.peak_memory import PeakBytes

MIB = 1024 * 1024
# Small enough that the allocator keeps what is freed instead of giving it back at once.
CHUNK_BYTES = 16 * 1024


def filled(size_bytes: int) -> list[bytearray]:
    return [bytearray(b"x" * CHUNK_BYTES) for _ in range(size_bytes // CHUNK_BYTES)]


def growth_mib(size_bytes: int) -> float:
    with PeakBytes(None) as peak:
        assert filled(size_bytes)
    return peak.growth_bytes / MIB


def test_growth_is_seen_where_freed_memory_lies_ready() -> None:
    before = filled(64 * MIB)
    pinned = bytearray(b"x" * CHUNK_BYTES)  # at the end: what lies before it is not given back
    before.clear()
    assert pinned
    assert 30 <= growth_mib(32 * MIB) <= 40


def test_growth_has_nothing_of_what_was_there_before() -> None:
    held = filled(64 * MIB)
    assert 30 <= growth_mib(32 * MIB) <= 40
    held.clear()
    assert 30 <= growth_mib(32 * MIB) <= 40
