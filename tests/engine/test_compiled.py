import numpy as np

from qrt_tn.engine import compiled as room


def total(values):
    result = 0.0
    for value in values:
        result += value
    return result


def test_where_nothing_can_be_kept(monkeypatch):
    asked = []
    compile_ = room.njit

    def picky(**options):
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    monkeypatch.setattr(room, "njit", picky)
    assert room.compiled(total)(np.arange(5.0)) == 10
    assert asked == [True, False]
