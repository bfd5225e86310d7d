"""Batches of operands made ready ahead of their use: read, cast, and copied to the device beside its work."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Loader:
    """Cuts columns of elements into batches.

    Args:
        columns: one array per varying tensor, shape (N, ...); anything with shape, dtype and slicing.
        size: elements per batch.
        dtype: what the numbers are cast to.
        on_gpu: whether NumPy arrays go to CuPy's current device.
        hashed: whether batches carry a digest.
    """

    def __init__(self, columns: Sequence[Any], size: int, dtype: str, *, on_gpu: bool, hashed: bool) -> None:
        self._columns = columns
        self._size = size
        self._dtype = dtype
        self._hashed = hashed
        self._upload = _Uploader() if on_gpu else None

    def ahead(self, numbers: Iterable[int], needed: Callable[[Batch], bool]) -> Iterator[Batch]:
        """The batches of these numbers, each made ready by another thread while the one before is in use.

        Args:
            numbers: which batches, in order.
            needed: whether a batch is to be contracted, as told from its digest; one that is not stays on
                the host.
        """

        def ready(number: int) -> tuple[Batch, Any]:
            batch = self._read(number)
            event = None
            if self._upload is not None and needed(batch):
                batch.arrays, event = self._upload(batch.arrays)
            return batch, event

        with ThreadPoolExecutor(1) as worker:
            waiting = None
            for number in numbers:
                following = worker.submit(ready, number)
                if waiting is not None:
                    yield self._arrived(*waiting.result())
                waiting = following
            if waiting is not None:
                yield self._arrived(*waiting.result())

    def _arrived(self, batch: Batch, event: Any) -> Batch:
        if self._upload is not None and event is not None:
            self._upload.wait(event)
        return batch

    def _read(self, number: int) -> Batch:
        start = number * self._size
        arrays = []
        digest = hashlib.blake2b(digest_size=20)
        count = min(self._size, self._columns[0].shape[0] - start)
        for column in self._columns:
            block = column[start : start + count]
            if array_module(block) is np:
                block = np.ascontiguousarray(block, dtype=self._dtype)
                if self._hashed:
                    digest.update(block.data)
            elif self._hashed:
                digest.update(block.get().data)
            if count < self._size:
                xp = array_module(block)
                block = block[xp.minimum(xp.arange(self._size), count - 1)]
            arrays.append(block)
        return Batch(number, count, arrays, digest.hexdigest() if self._hashed else "")


class _Uploader:
    """Copies to the GPU on a stream of its own, from page-locked memory: only so does it run beside work."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._device = cupy.cuda.Device()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._locked: list[list[Any]] = [[], []]

    def __call__(self, arrays: list[Any]) -> tuple[list[Any], Any]:
        """(arrays on the device, the event after which they are there)."""
        import cupyx

        cupy = self._cupy
        # two sets of page-locked buffers take turns; the copy out of this one is two batches old
        locked = self._locked[0]
        self._locked.reverse()
        with self._device, self._stream:
            self._stream.synchronize()
            if not locked:
                locked += [cupyx.empty_pinned(array.shape, dtype=array.dtype) for array in arrays]
            sent = []
            for array, buffer in zip(arrays, locked, strict=True):
                if array_module(array) is not np:
                    sent.append(array)
                    continue
                buffer[...] = array
                target = cupy.empty(array.shape, dtype=array.dtype)
                target.set(buffer, stream=self._stream)
                sent.append(target)
            return sent, self._stream.record()

    def wait(self, event: Any) -> None:
        """Let the current stream wait for an upload."""
        self._cupy.cuda.get_current_stream().wait_event(event)
