import numpy as np
import pytest

from qrt_tn import field

PRIMES = [2, 3, 5, 7, 13, 31, 127, 8191]


@pytest.mark.parametrize("prime", PRIMES)
def test_representatives_and_inverses(prime):
    values = np.arange(prime)
    centred = field.centred(values, prime)
    assert (centred % prime == values).all()
    assert (2 * np.abs(centred) <= prime).all()
    table, powers = field.inverses(prime), field.powers(prime)
    assert table[0] == 0
    assert ((values[1:] * table[1:]) % prime == 1).all()
    assert (np.sort(powers) == values[1:]).all()
    assert (powers[1:] == powers[:-1] * powers[1 % len(powers)] % prime).all()
    for held in (table, powers, field.roots_of_unity(prime)):
        with pytest.raises(ValueError, match="read-only"):
            held[0] = 0


@pytest.mark.parametrize("prime", [*PRIMES[:-1], 521])
@pytest.mark.parametrize("kinds", ["rr", "rc", "cr", "cc"])
def test_transforms_and_correlations_match_the_sums(prime, kinds, device):
    rng = np.random.default_rng(prime)
    h, r = (rng.normal(size=(2, prime)) + 1j * (kind == "c") * rng.normal(size=(2, prime)) for kind in kinds)
    h, r = (x if kind == "c" else x.real for x, kind in zip((h, r), kinds, strict=True))
    b = np.arange(prime)
    sums = h @ np.exp(-2j * np.pi * (np.outer(b, b) % prime) / prime) / prime**0.5
    assert np.allclose(field.fourier(h), sums, atol=1e-11)
    assert np.allclose(field.fourier(device.asarray(h.T), axis=0).get(), sums.T, atol=1e-11)
    assert np.allclose(h @ field.fourier_matrix(prime).T, sums, atol=1e-11)
    assert np.allclose(field.inverse_fourier(sums.T, axis=0), h.T, atol=1e-11)
    found = field.correlated(h, r[0])
    assert found.dtype == np.result_type(h, r)
    assert np.allclose(found, np.stack([h @ np.roll(r[0], shift).conj() for shift in b], axis=1), atol=1e-11)


def test_no_large_matrix():
    with pytest.raises(ValueError, match="65537"):
        field.fourier_matrix(65537)


def test_next_prime():
    assert [field.next_prime(n) for n in (0, 2, 4, 8, 90, 114, 127)] == [2, 2, 5, 11, 97, 127, 127]


@pytest.mark.parametrize("value", [2, 3, 127, np.int32(5), 1048573])
def test_primes_pass(value):
    assert field.check_prime(value) == int(value)
    assert type(field.check_prime(value)) is int


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (4, "4 is not prime; the next prime is 5"),
        (91, "91 is not prime; the next prime is 97"),
        (1, "modulus is 1; give a prime between 2"),
        (-7, "modulus is -7"),
        (2**20, "give a prime between"),
        (7.0, "modulus is 7.0; give a prime int"),
        (True, "modulus is True"),
        ("7", "modulus is '7'"),
        (None, "modulus is None"),
    ],
)
def test_other_moduli_are_refused(value, says):
    with pytest.raises(ValueError, match=says):
        field.check_prime(value)


def test_grid_passes_integers_of_any_width():
    for dtype in (np.uint8, np.int16, np.uint64, np.int64):
        checked = field.check_grid(np.array([[0, 6]], dtype=dtype), 7, "x", (None, 2))
        assert checked.dtype == np.int64
        assert (checked == [[0, 6]]).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[0, 7]], "x holds 7, outside Z_7, in row 0; its values must lie in 0..6"),
        ([[3, 3], [9, 0], [3, -1]], "x holds -1, outside Z_7, in row 2"),
        ([[0.0, 1.0]], "dtype float64; give integers in 0..6"),
        ([[0, np.nan]], "dtype float64"),
        ([[True, False]], "dtype bool"),
        ([["a", "b"]], "give integers"),
        ([0, 1], r"x has shape \(2,\); it must have shape \(N, 2\)"),
        ([[0, 1, 2]], r"x has shape \(1, 3\)"),
        (np.empty((0, 2), dtype=int), r"x is empty \(shape \(0, 2\)\)"),
        (np.array([[2**63, 1]], dtype=np.uint64), "x holds 9223372036854775808"),
    ],
)
def test_other_points_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        field.check_grid(values, 7, "x", (None, 2))
