import pytest
from pydantic import ValidationError

from qrt_tn.field import check_prime
from qrt_tn.ridgelet import ACTIVATIONS
from qrt_tn.studies.experiments.growth.settings import Growth


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "dense", "dim": 5, "modulus": 127}, "127\\^5 values, above 67108864; lower dim or modulus"),
        ({"backend": "cupy"}, "backend is 'cupy' and gpus is 0"),
        ({"gpus": 1}, "backend is 'numpy' and gpus is 1"),
        ({"kind": "tree"}, "kind"),
        ({"activation": "swish"}, "activation"),
        ({"points": 1}, "points"),
        ({"dims": 4}, "dims"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Growth.model_validate(given)


def test_moduli_are_the_primes() -> None:
    for number in range(2, 300):
        try:
            expected = check_prime(number) == number
        except ValueError:
            expected = False
        try:
            found = Growth(modulus=number).modulus == number
        except ValidationError as error:
            assert "prime" in str(error)
            found = False
        assert found == expected, number


def test_dense_states_up_to_the_limit() -> None:
    assert Growth(kind="dense", dim=26, modulus=2).dim == 26
    with pytest.raises(ValidationError, match="above"):
        Growth(kind="dense", dim=27, modulus=2)


def test_every_activation_can_be_asked_for() -> None:
    for name in ACTIVATIONS:
        assert Growth.model_validate({"activation": name}).activation == name
