"""Memory that is kept for blocks: nobody else has it while a call does, and not much of it is kept."""

import threading

import numpy as np
import pytest

from fastce.cpu import rooms
from fastce.cpu.rooms import HUGE_PAGE, LARGEST_KEPT, LINE_BYTES, SMALL, Room

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(rooms, "_kept", type(rooms._kept)(maxlen=rooms._kept.maxlen))


def address(array):
    return array.ctypes.data


def test_rooms_of_one_time_are_apart():
    first, second = Room(), Room()
    blocks = [room.of((100, 10), FLOAT32) for room in (first, second)]
    assert not np.may_share_memory(*blocks)


def test_a_block_begins_at_a_line_of_the_cache():
    for size in (1, 1000, 77777):
        assert address(Room().of((size,), FLOAT32)) % LINE_BYTES == 0


def test_larger_blocks_begin_at_a_huge_page_and_end_with_one():
    for size in (SMALL, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1):
        room = Room()
        assert address(room.of((size,), np.dtype(np.uint8))) % HUGE_PAGE == 0
        (memory,) = room._of_threads.values()
        assert size <= memory.size < size + HUGE_PAGE
        assert memory.size % HUGE_PAGE == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 1), (3, 32), (5, 1000), (2, 3, 1024), (7, 2047)])
def test_lines_of_a_block_are_an_odd_number_of_lines_of_the_cache_apart(shape, dtype):
    block = Room().lines(shape, np.dtype(dtype))
    assert block.shape == shape
    assert block.strides[-1] == block.itemsize
    assert block.strides[-2] % (2 * LINE_BYTES) == LINE_BYTES
    assert 0 <= block.strides[-2] - shape[-1] * block.itemsize < 2 * LINE_BYTES
    assert (address(block) % LINE_BYTES) == 0


def test_memory_is_used_again():
    room = Room()
    before = address(room.of((300, 100), FLOAT32))
    del room
    later = Room()
    block = later.of((50, 100), np.dtype(np.float64))
    assert address(block) == before
    assert block.shape == (50, 100)
    assert block.dtype == np.float64


def test_the_next_block_replaces_the_last():
    room = Room()
    assert address(room.of((30, 10), FLOAT32)) == address(room.of((10, 7), FLOAT32))


def test_threads_have_their_own():
    room, blocks = Room(), []
    here = room.of((100,), FLOAT32)
    thread = threading.Thread(target=lambda: blocks.append(room.of((100,), FLOAT32)))
    thread.start()
    thread.join()
    assert not np.may_share_memory(here, blocks[0])


def test_what_is_kept_has_an_end():
    many = [Room() for _ in range(100)]
    for room in many:
        room.of((LARGEST_KEPT // 8,), FLOAT32)
    many.clear()
    large = Room()
    large.of((LARGEST_KEPT,), FLOAT32)
    del room, large
    assert 0 < len(rooms._kept) <= 16
    assert all(memory.size <= LARGEST_KEPT for memory in rooms._kept)
