import numpy as np
import pytest

from qrt_tn import Ridgelet
from qrt_tn.ridgelet import ACTIVATIONS, ALIASES

PRIMES = [3, 5, 7, 13, 31, 127]


@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_default_ridgelets(name, prime):
    ridgelet = Ridgelet(name, prime)
    g, r = ridgelet.activation, ridgelet.values
    assert g.shape == r.shape == ridgelet.spectrum.shape == (prime,)
    assert abs(r.sum()) < 1e-12
    assert abs(np.linalg.norm(r) - 1) < 1e-12
    b = np.arange(prime)
    hat = np.exp(-2j * np.pi * np.outer(b, b) / prime) @ r / prime**0.5
    assert np.abs(ridgelet.spectrum - hat).max() < 1e-13
    assert ridgelet.spectrum[0] == 0
    # C = <r, g>, which for r = (g - mean g) / || . || is the norm of g - mean g
    assert np.isclose(ridgelet.admissibility, np.linalg.norm(g - g.mean()), rtol=1e-12)


def test_activations_take_centred_representatives():
    # P = 7: 0 1 2 3 -3 -2 -1
    assert Ridgelet("relu", 7).activation.tolist() == [0, 1, 2, 3, 0, 0, 0]
    assert Ridgelet("triangle", 7).activation.tolist() == [0, 1, 2, 3, 3, 2, 1]
    assert Ridgelet("sawtooth", 7).activation.tolist() == [0, 1, 2, 3, -3, -2, -1]
    assert Ridgelet("step", 7).activation.tolist() == [0, 1, 1, 1, 0, 0, 0]
    angles = 2 * np.pi * np.array([0, 1, 2, 3, -3, -2, -1]) / 7
    assert np.allclose(Ridgelet("tanh", 7).activation, np.tanh(angles))
    assert np.allclose(Ridgelet("gaussian", 7).activation, np.exp(-(angles**2) / 2))


def test_a_cosine_has_two_harmonics_by_either_name():
    for alias, name in ALIASES.items():
        assert repr(Ridgelet(alias, 7)) == repr(Ridgelet(name, 7))
        assert (Ridgelet(alias, 7).values == Ridgelet(name, 7).values).all()
    assert repr(Ridgelet("cos", 7)).startswith("Ridgelet('cosine', modulus=7, admissibility=1.87")
    spectrum = Ridgelet("cosine", 127).spectrum
    assert np.flatnonzero(spectrum).tolist() == [1, 126]
    assert np.allclose(np.abs(spectrum[[1, 126]]) ** 2, 0.5)


def test_tables():
    rng = np.random.default_rng(0)
    g, r = rng.normal(size=13), rng.normal(size=13) + 1j * rng.normal(size=13)
    r -= r.mean()
    ridgelet = Ridgelet(g, 13, 5 * r)
    assert ridgelet.name == "table"
    assert np.allclose(ridgelet.values, r / np.linalg.norm(r))
    assert np.isclose(ridgelet.admissibility, np.vdot(r / np.linalg.norm(r), g))
    assert np.isclose(
        ridgelet.admissibility, (np.fft.fft(g)[1:] * np.conj(ridgelet.spectrum[1:])).sum() / 13**0.5
    )
    assert isinstance(Ridgelet(g, 13).admissibility, float)


@pytest.mark.parametrize("scale", [2.0**-1060, 1e-200, 1e200, 2.0**1012])
@pytest.mark.parametrize("unit", [1, 1 + 1j])
def test_tables_of_any_scale(scale, unit):
    g = np.round(np.random.default_rng(0).normal(size=7) * 2**10) * unit
    r = g - np.roll(g, 1)
    plain, far = Ridgelet(g, 7, r), Ridgelet(g * scale, 7, r * scale)
    assert np.allclose(Ridgelet(g * scale, 7).values, Ridgelet(g, 7).values)
    assert np.allclose(far.values, plain.values)
    assert np.isclose(far.admissibility / scale, plain.admissibility, rtol=1e-3 if scale < 1e-300 else 1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("swish", 7), "unknown activation 'swish'; choose one of cosine"),
        (("relu", 9), "9 is not prime"),
        ((np.ones(7), 7), "constant"),
        ((np.zeros(7), 7), "constant"),
        (("sine", 2), "constant"),
        ((np.arange(6), 7), r"shape \(6,\).*\(7,\)"),
        (([0, 1, np.nan, 0, 0, 0, 0], 7), "holds nan"),
        (([0, 1, np.inf, 0, 0, 0, 0], 7), "holds inf"),
        ((["a"] * 7, 7), "dtype"),
        (("relu", 7, np.ones(7)), "sums to 7"),
        (("relu", 7, np.zeros(7)), "its norm"),
        (("relu", 7, np.ones(6)), r"ridgelet table has shape \(6,\)"),
        (([1.7e308, -1.7e308] * 63 + [0], 127), r"overflows, as the activation reaches .*1.7e\+308"),
        # orthogonal to the triangle, which is even
        (("triangle", 7, [0, 1, 0, 0, 0, 0, -1]), "cannot reconstruct"),
    ],
)
def test_refusals(arguments, says):
    with pytest.raises(ValueError, match=says):
        Ridgelet(*arguments)
