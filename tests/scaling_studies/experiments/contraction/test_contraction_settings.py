import pytest
from pydantic import ValidationError

from qrt_tn.studies.experiments.contraction.settings import Contraction


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 2}, "batch is 2; grid has one result"),
        ({"compute": "TF32"}, "compute is 'TF32', which is cuTensorNet's"),
        ({"compute": "TF32", "backend": "cuquantum", "gpus": 1}, "dtype = 'complex64'"),
        ({"backend": "cupy"}, "backend is 'cupy' and gpus is 0"),
        ({"gpus": 1}, "backend is 'numpy' and gpus is 1"),
        ({"network": "regular", "size": 5}, "size is 5; a 3-regular graph has an even number"),
        ({"ranks": 4, "slices": 2}, "ranks is 4 and slices is 2"),
        ({"modulus": 9}, "must be a prime number"),
        ({"sizes": 3}, "sizes"),
        ({"size": "3"}, "size"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Contraction.model_validate(given)


def test_what_can_be_is_taken() -> None:
    Contraction(backend="cuquantum", gpus=1, dtype="complex64", compute="3XTF32", ranks=2, slices=2)
    Contraction(network="qrt-grid", batch=3)
