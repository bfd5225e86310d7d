import jax
import numpy as np
import pytest

from qrt_tn.engine import Plan
from qrt_tn.engine.xla import CHUNK


@pytest.fixture
def compilations():
    """The names of what XLA compiled since the fixture began."""
    seen = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def chain(sites, extent, prefix="k", **settings):
    inputs = tuple((f"{prefix}{i}", f"{prefix}{i + 1}") for i in range(sites))
    sizes = {f"{prefix}{i}": extent for i in range(sites + 1)}
    path = ((0, 1), *((0, left - 1) for left in range(sites - 1, 1, -1)))
    return Plan(inputs, (f"{prefix}0", f"{prefix}{sites}"), sizes, path, **settings)


def by_numpy(made, arrays):
    return made.execute(arrays, "numpy").log_abs()


def test_chunks_of_a_chain_are_compiled_once(compilations):
    sites = 4 * CHUNK + 1
    rng = np.random.default_rng(0)
    arrays = list(rng.uniform(size=(sites, 2, 2)))
    made = chain(sites, 2, dtype="float64")
    result = made.execute(arrays, "jax")
    first = len(compilations)
    assert first < 12  # far fewer than steps; the chunks of a chain are alike
    assert type(result.mantissa) is type(result.log_scale) is np.ndarray
    assert result.mantissa.flags.writeable
    assert np.allclose(result.log_abs(), by_numpy(made, arrays), rtol=1e-13)
    # an equal chain under other names, with other numbers, compiles nothing
    other = chain(sites, 2, "m", dtype="float64")
    arrays = list(rng.uniform(size=(sites, 2, 2)))
    assert np.allclose(other.execute(arrays, "jax").log_abs(), by_numpy(other, arrays), rtol=1e-13)
    assert len(compilations) == first
    # of twice the length: the same chunks
    longer = chain(2 * sites - 1, 2, dtype="float64")
    arrays = list(rng.uniform(size=(2 * sites - 1, 2, 2)))
    assert np.allclose(longer.execute(arrays, "jax").log_abs(), by_numpy(longer, arrays), rtol=1e-13)
    assert len(compilations) == first


def test_double_precision_whatever_the_users_setting():
    assert not jax.config.jax_enable_x64
    made = chain(3, 4, dtype="complex128")
    arrays = [np.random.default_rng(k).normal(size=(4, 4)) + 1j for k in range(3)]
    result = made.execute(arrays, "jax")
    assert result.dtype == np.complex128
    assert np.allclose(result.value(), arrays[0] @ arrays[1] @ arrays[2], rtol=1e-13)
    assert not jax.config.jax_enable_x64
    # JAX's own arrays are operands too
    with jax.enable_x64(True):
        there = [jax.numpy.asarray(array) for array in arrays]
    assert np.array_equal(made.execute(there, "jax").value(), result.value())


def test_slices_compile_once(compilations):
    """All slices of a batch index and of a summed one run the same code."""
    inputs = (("n", "a", "b"), ("n", "b", "c"), ("c", "d", "n"))
    sizes = {"n": 6, "a": 2, "b": 5, "c": 3, "d": 2}
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=[sizes[i] for i in term]) for term in inputs]
    arrays[0] *= 10.0 ** np.arange(0, 60, 10)[:, None, None]
    counts = []
    for slices in (("b",), ("b", "n")):
        made = Plan(inputs, ("n", "a", "d"), sizes, ((0, 1), (0, 1)), slices, "float64")
        before = len(compilations)
        result = made.execute(arrays, "jax")
        counts.append(len(compilations) - before)
        assert np.allclose(result.log_abs(), by_numpy(made, arrays), rtol=1e-11, atol=1e-11)
        before = len(compilations)
        made.execute(arrays, "jax")
        assert len(compilations) == before
    assert max(counts) < 25  # 5 and 30 slices


def test_constants_run_once():
    made = chain(5, 3, dtype="float64")
    rng = np.random.default_rng(0)
    arrays = list(rng.normal(size=(5, 3, 3)))
    expression = made.expression("jax", constants=dict(enumerate(arrays[:3])))
    for _ in range(2):
        arrays[3:] = list(rng.normal(size=(2, 3, 3)))
        assert np.allclose(expression(arrays[3:]).value(), np.linalg.multi_dot(arrays), rtol=1e-12)
