"""What the engine asks of an array library, at the values where a GPU's may differ from NumPy."""

from functools import partial
from typing import Any

import numpy as np

from qrt_tn.engine.backends import to_host
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place


def arrays(place: Place, checks: Checks) -> None:
    """Operations of the array module, one by one, against NumPy's."""
    xp, rng = place.xp, np.random.default_rng(0)

    def kept(tiny: Any) -> bool:
        return bool(to_host(tiny * 1 > 0)[0])

    def same(name: str, call: Any, limit: float, *operands: Any) -> None:
        """`call(module, *operands)` on the device against itself on NumPy."""
        given = [xp.asarray(operand) for operand in operands]
        checks.near(name, lambda: call(xp, *given), lambda: call(np, *operands), limit)

    for real in ("float32", "float64"):
        limits = np.finfo(real)
        wide = np.array([0, 1, -3.5, 1e-30, 1e30, limits.tiny, limits.max], real)
        same(f"frexp, {real}", lambda m, x: m.frexp(x)[0], 0, wide)
        same(f"frexp, exponents, {real}", lambda m, x: m.frexp(x)[1], 0, wide)
        for kind in ("int32", "int64"):
            shift = np.array([-126, 0, 5, 60, 126], kind)
            same(f"ldexp, {real}, {kind}", lambda m, n, real=real: m.ldexp(m.ones(5, real), n), 0, shift)
        # told and not judged: CuPy compiles with flush-to-zero
        tiny = xp.asarray(np.array([limits.tiny / 8], real))
        checks.tell(f"a denormal number is kept, {real}", partial(kept, tiny))

    weights, values = rng.random((127, 300)), rng.integers(127, size=300)
    same("cumsum", lambda m, w: m.cumsum(w, axis=0), 1e-13, weights)
    same("argmax of a comparison", lambda m, w: m.argmax(w > 0.5, axis=0), 0, weights)
    same("max over no axis", lambda m, w: w.max(axis=(), keepdims=True), 0, weights)
    branches = (rng.normal(size=(127, 16, 300)) + 1j * rng.normal(size=(127, 16, 300))).astype("complex64")
    rows = np.arange(300)
    same("two indices about a slice", lambda m, b, v, n: b[v, :, n], 0, branches, values, rows)
    keys, terms = rng.integers(500, size=10**5), rng.normal(size=10**5).astype("float32")
    same("bincount", lambda m, k, z: m.bincount(k, weights=z, minlength=600), 1e-6, keys, terms)
    given = place.to_device([keys, terms])
    count = partial(xp.bincount, given[0], weights=given[1])
    # told and not judged: a GPU adds in any order
    checks.tell("bincount gives the same bits twice", lambda: bool((count() == count()).all()))
    same("transform of a prime length", lambda m, b: m.fft.fft(b[:, 0].T, axis=1), 1e-5, branches)
    matrix = rng.normal(size=(40, 30)) + 1j * rng.normal(size=(40, 30))
    same("singular values", lambda m, a: m.linalg.svd(a, full_matrices=False)[1], 1e-12, matrix)
    same("qr", lambda m, a: m.matmul(*m.linalg.qr(a)), 1e-12, matrix)
    same("einsum of numbers", lambda m, a: m.einsum(a, [0, 0], [0]), 0, matrix[:30])
    flat = branches[:16, 0]
    same("a product of two precisions", lambda m, b: m.tensordot(m.ones((16, 16)), b, 1), 1e-6, flat)
    into = lambda m, a, b: m.matmul(a, b, out=m.empty((16, 300), "complex64"))  # noqa: E731
    same("matmul into an array", into, 1e-6, flat[:, :16].copy(), flat)
    left = rng.integers(-128, 129, (place.size(2000, 200), 784)).astype("float32")
    right = rng.integers(-128, 129, (784, place.size(500, 50))).astype("float32")
    # sums of points are exact by this: 784 * 128**2 < 2**24, and no TF32
    same("products of whole numbers are exact in float32", lambda m, a, b: m.matmul(a, b), 0, left, right)
