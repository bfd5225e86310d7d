import mpmath
import numpy as np
import pytest

from qrt_tn.studies.experiments.contraction.accuracy import log_norm, relative_error


def draw(seed: int, size: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(2, size))
    return parts[0] + 1j * parts[1], rng.integers(low, high, size=size)


def exact(part: tuple[np.ndarray, np.ndarray]) -> list[mpmath.mpc]:
    return [mpmath.mpc(m) * mpmath.mpf(2) ** int(e) for m, e in zip(*part, strict=True)]


def norm(values: list[mpmath.mpc]) -> mpmath.mpf:
    return mpmath.sqrt(sum(abs(value) ** 2 for value in values))


@pytest.mark.parametrize("where", [(-5, 5), (-90_000, -89_990), (40_000, 41_500)])
def test_against_many_digits(where: tuple[int, int]) -> None:
    with mpmath.workdps(40):
        one = draw(1, 20, *where)
        assert log_norm(one) == pytest.approx(float(mpmath.log(norm(exact(one)))), rel=1e-13)
        other = one[0] * (1 + 1e-6 * np.random.default_rng(2).normal(size=20)), one[1] + 3
        other = other[0] / 8, other[1]
        both = zip(exact(other), exact(one), strict=True)
        wanted = float(norm([left - right for left, right in both]) / norm(exact(one)))
        assert relative_error(other, one) == pytest.approx(wanted, rel=1e-8)


def test_scales_of_their_own_do_not_matter() -> None:
    mantissa, _ = draw(3, 5, 0, 1)
    one, other = (mantissa, np.array(-2000)), (mantissa * 2.0**-10, np.array([-1990]))
    assert relative_error(one, other) == 0
    assert log_norm(one) == log_norm(other)


def test_the_order_leaves_no_trace() -> None:
    mantissa, exponent = draw(4, 50, -20, 20)
    order = np.random.default_rng(0).permutation(50)
    assert log_norm((mantissa, exponent)) == log_norm((mantissa[order], exponent[order]))


def test_zeros() -> None:
    zero = np.zeros(3, complex), np.array([5, 0, 7])
    one = np.array([0, 1e-30, 0], np.complex64), np.array([900, 0, 0])
    assert log_norm(zero) is None
    assert relative_error(one, zero) is None
    assert log_norm(one) == pytest.approx(np.log(1e-30), rel=1e-7)
    assert relative_error(zero, one) == 1
    assert log_norm((np.complex64(2), np.asarray(1))) == pytest.approx(np.log(4))
