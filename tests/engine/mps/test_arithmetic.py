import numpy as np

from qrt_tn.engine import mps


def test_sums_and_inner_products(shape, chains):
    rng = np.random.default_rng(1)
    extents, bond = shape
    a, b = chains.random_cores(rng, extents, bond), chains.random_cores(rng, extents, bond + 1)
    assert np.allclose(chains.expanded(mps.add(a, b)), chains.expanded(a) + chains.expanded(b))
    assert np.isclose(mps.inner(a, b).value(), np.vdot(chains.expanded(a), chains.expanded(b)))
    assert np.allclose(chains.expanded(mps.scaled(a, 2 - 3j)), (2 - 3j) * chains.expanded(a))


def test_filters(shape, chains):
    rng = np.random.default_rng(2)
    for complex_values in (False, True):
        a = chains.random_cores(rng, *shape, complex_values=False)
        tables = [rng.normal(size=extent) + (1j if complex_values else 0) for extent in shape[0]]
        product = tables[0]
        for table in tables[1:]:
            product = np.multiply.outer(product, table)
        held = mps.filtered(a, tables)
        assert np.allclose(chains.expanded(held), chains.expanded(a) * product)
        assert np.iscomplexobj(held[0]) == complex_values
    single = mps.filtered([core.astype(np.float32) for core in a], [table.real for table in tables])
    assert {core.dtype for core in single} == {np.dtype(np.float32)}


def test_an_inner_product_far_outside_range():
    ones = [np.full((1, 100, 1), 1.0)] * 3000
    assert np.isclose(mps.inner(ones, ones).log_abs(), 3000 * np.log(100))
    assert mps.inner([np.zeros((1, 2, 1))], [np.ones((1, 2, 1))]).value() == 0


def test_the_device_road(device, chains):
    rng = np.random.default_rng(10)
    host = chains.random_cores(rng, [3, 4, 2, 3], 3)
    there = [device.asarray(core) for core in host]
    full = chains.expanded(host)
    assert np.isclose(complex(np.asarray(mps.inner(there, there))), np.vdot(full, full))
    assert np.allclose(chains.expanded([core.get() for core in mps.add(there, there)]), 2 * full)
    assert np.allclose(chains.expanded([core.get() for core in mps.scaled(there, 3.0)]), 3 * full)
    tables = [rng.normal(size=core.shape[1]) for core in host]
    filtered = chains.expanded([core.get() for core in mps.filtered(there, tables)])
    assert np.allclose(filtered, chains.expanded(mps.filtered(host, tables)))
