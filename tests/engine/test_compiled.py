import numba
import numpy as np

from qrt_tn.engine.compiled import compiled


@compiled
def total(values):
    result = 0.0
    for value in values:
        result += value
    return result


@compiled
def twice(values, factor=2.0):
    return factor * total(values)


def test_compiled_functions_call_each_other():
    assert twice(np.arange(5.0)) == 20
    assert twice.__name__ == "twice"
    assert twice._dispatcher.signatures


def test_where_nothing_can_be_kept(monkeypatch):
    asked = []
    compile_ = numba.njit

    def picky(**options):
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    monkeypatch.setattr(numba, "njit", picky)
    assert compiled(total._function)(np.arange(5.0)) == 10
    assert asked == [True, False]
