"""Batches of operands made ready while the batch before them is in use: read, cast, copied to the device."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module


@dataclass
class Batch:
    """The operands of some consecutive elements.

    Attributes:
        number: which batch it is.
        count: how many of its elements are wanted; the rest repeat the last, so that batches are equal.
        arrays: one per varying tensor, shape (size, ...).
        digest: a hash of the operands; empty where nobody asked for one.
    """

    number: int
    count: int
    arrays: list[Any]
    digest: str


def prefetched(
    numbers: Sequence[int],
    columns: Sequence[Any],
    size: int,
    dtype: str,
    *,
    on_gpu: bool,
    hashed: bool,
    needed: Callable[[Batch], bool],
) -> Iterator[Batch]:
    """Batches of elements, each made ready by another thread while the one before is in use.

    Args:
        numbers: which batches, in order.
        columns: one array per varying tensor, shape (N, ...); anything with shape, dtype and slicing.
        size: elements per batch.
        dtype: what the numbers are cast to.
        on_gpu: whether NumPy arrays go to CuPy's current device.
        hashed: whether batches carry a digest.
        needed: whether a batch is to be contracted, as told from its digest; else it stays on the host.
    """
    if on_gpu:
        import cupy

        device, stream = cupy.cuda.Device(), cupy.cuda.Stream(non_blocking=True)

    def ready(number: int) -> tuple[Batch, Any]:
        batch = _read(number, columns, size, dtype, hashed=hashed)
        if not on_gpu or not needed(batch):
            return batch, None
        with stream:  # beside the work on another; CuPy copies from page-locked memory
            batch.arrays = [cupy.asarray(array) for array in batch.arrays]
            return batch, stream.record()

    if not on_gpu and len(numbers) == 1:
        yield ready(numbers[0])[0]  # nothing to do meanwhile
        return
    with ThreadPoolExecutor(1) as worker:
        if on_gpu:  # a thread begins on the first device, whichever this rank's is
            worker.submit(device.use).result()
        futures = (worker.submit(ready, number) for number in numbers)
        following = next(futures, None)
        while following is not None:
            batch, copied = following.result()
            following = next(futures, None)
            if copied is not None:
                cupy.cuda.get_current_stream().wait_event(copied)
            yield batch


def _read(number: int, columns: Sequence[Any], size: int, dtype: str, *, hashed: bool) -> Batch:
    start = number * size
    count = min(size, columns[0].shape[0] - start)
    digest = hashlib.blake2b(digest_size=20)
    arrays = []
    for column in columns:
        block = column[start : start + count]
        xp = array_module(block)
        if xp is np:
            block = np.ascontiguousarray(block, dtype=dtype)
        if hashed:
            digest.update(block.data if xp is np else block.get().data)
        arrays.append(block if count == size else block[xp.minimum(xp.arange(size), count - 1)])
    return Batch(number, count, arrays, digest.hexdigest() if hashed else "")
