import pytest

from qrt_tn.studies.benchmarks import timing


def test_contenders_take_turns(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    order = []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    waited = []
    found = timing.paired(
        {"a": call("a", 0.25), "b": call("b", 0.5)}, 4, wait=lambda: waited.append(1), least=0.5
    )
    assert found == {"a": [0.25] * 4, "b": [0.5] * 4}
    # warm up, then a is repeated to last as long as was asked; each starts in turn
    assert "".join(order) == "aabb" + "aab" + "baa" + "aab" + "baa"
    assert len(waited) == 4 + 8


def test_ratios_are_paired():
    found = timing.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [2.0, 3.0, 1.0]}
    assert timing.ratios([1.0], [2.0], 8)["median"] == 4.0


def test_collection_is_switched_on_again():
    def fail():
        raise KeyError

    calls = iter([None, None, 1])

    def third():
        if next(calls) is not None:
            fail()

    with pytest.raises(KeyError):
        timing.paired({"a": third}, 1, least=0)
    assert timing.gc.isenabled()
