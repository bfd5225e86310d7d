"""The order of training points: a stream of shuffled epochs that any iteration of can be asked for."""

import numpy as np


class BatchOrder:
    """Batches cut from one shuffled epoch after the other, every batch full.

    The batch of iteration t is a function of the seed and t alone, so a run that goes on in the middle
    sees the same batches as one that was never ended.

    Args:
        seed: of this run's order.
        points: how many training points there are.
        size: points in a batch.

    Raises:
        ValueError: a batch larger than the training set.
    """

    def __init__(self, seed: int, points: int, size: int) -> None:
        if size > points:
            raise ValueError(
                f"batch_size is {size} but there are {points} training points; take a smaller one"
            )
        self._seed, self._points, self._size = seed, points, size
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int32)

    def batches(self, first: int, steps: int) -> np.ndarray:
        """Indices of the training points of iterations first .. first + steps - 1, int32 (steps, size)."""
        start, end = first * self._size, (first + steps) * self._size
        parts = []
        while start < end:
            epoch, place = divmod(start, self._points)
            taken = min(end - start, self._points - place)
            parts.append(self._shuffled(epoch)[place : place + taken])
            start += taken
        return np.concatenate(parts).reshape(steps, self._size)

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = (
                np.random.default_rng([self._seed, epoch]).permutation(self._points).astype(np.int32)
            )
            self._epoch = epoch
        return self._order
