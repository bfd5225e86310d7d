import numpy as np
import pytest

from qrt_tn.models.lottery.batches import BatchOrder


def test_every_epoch_has_every_point_once_and_another_order() -> None:
    order = BatchOrder(3, points=50, size=7)
    stream = order.batches(0, 50).ravel()  # 350 places: seven epochs
    epochs = stream.reshape(7, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 7


def test_a_batch_is_a_function_of_its_iteration_alone() -> None:
    whole = BatchOrder(3, points=50, size=7).batches(0, 40)
    rng = np.random.default_rng(0)
    order = BatchOrder(3, points=50, size=7)
    for first in rng.integers(35, size=20).tolist():  # back and forth
        assert np.array_equal(order.batches(first, 5), whole[first : first + 5])
    assert not np.array_equal(BatchOrder(4, points=50, size=7).batches(0, 40), whole)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 51 but there are 50"):
        BatchOrder(0, points=50, size=51)
