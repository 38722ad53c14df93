import gc
import threading

import numpy as np
import pytest

from ptyzarr.streaming.recycling import BatchMemory, aligned_bytes
from ptyzarr.streaming.vectors import ALIGNMENT


def address(array):
    return array.ctypes.data


def test_arrays_are_aligned_and_contiguous():
    memory = BatchMemory(4 * 60, 3)
    arrays = [memory.empty((3, 5), np.float32) for _ in range(10)]
    assert all(address(array) % ALIGNMENT == 0 for array in arrays)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)


def test_memory_is_used_again_when_the_array_is_gone():
    memory = BatchMemory(400, 3)
    array = memory.empty((100,), np.float32)
    where = address(array)
    del array
    assert memory.n_free == 1
    assert address(memory.empty((50,), np.float32)) == where


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda array: array[2:5], id="slice"),
        pytest.param(lambda array: array.reshape(10, 10).T[3], id="view-of-view"),
        pytest.param(lambda array: array.view(np.int16), id="dtype"),
        pytest.param(memoryview, id="memoryview"),
        pytest.param(lambda array: np.frombuffer(array, np.uint8), id="frombuffer"),
        pytest.param(lambda array: np.asarray(memoryview(array)), id="through-buffer"),
    ],
)
def test_any_view_keeps_the_memory(keep):
    memory = BatchMemory(400, 3)
    array = memory.empty((100,), np.float32)
    view = keep(array)
    del array
    gc.collect()
    assert memory.n_free == 0
    del view
    assert memory.n_free == 1


def test_kept_arrays_never_share_memory():
    memory = BatchMemory(400, 2)
    kept = []
    for number in range(20):
        kept.append(memory.empty((100,), np.float32))
        kept[-1][:] = number
    assert [float(array[0]) for array in kept] == list(range(20))


def test_no_more_memory_is_kept_for_later_than_asked():
    memory = BatchMemory(400, 2)
    arrays = [memory.empty((100,), np.float32) for _ in range(5)]
    assert len(arrays) == 5
    del arrays
    assert memory.n_free == 2


def test_memory_comes_back_from_another_thread():
    memory = BatchMemory(400, 2)
    arrays = [memory.empty((100,), np.float32)]
    thread = threading.Thread(target=arrays.clear)
    thread.start()
    thread.join()
    assert memory.n_free == 1


def test_an_array_outlives_the_one_who_made_it():
    memory = BatchMemory(400, 2)
    array = memory.empty((100,), np.float32)
    array[:] = 3
    del memory
    gc.collect()
    assert (array == 3).all()


def test_no_bytes_are_an_array_too():
    assert aligned_bytes(0).shape == (0,)
