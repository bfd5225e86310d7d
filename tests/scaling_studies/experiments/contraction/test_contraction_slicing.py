from dataclasses import replace

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.studies.experiments.contraction.networks import build
from qrt_tn.studies.experiments.contraction.settings import Contraction
from qrt_tn.studies.experiments.contraction.slicing import in_slices


@pytest.mark.parametrize("least", [1, 2, 7, 30])
def test_slices_add_up_to_the_whole(least: int) -> None:
    case = build(Contraction(network="grid", size=4, bond=3), 1)
    plan = engine.plan(case.structure, use_cache=False)
    cut = in_slices(plan, least)
    assert least <= cut.slice_count < 3 * least
    assert cut.path == plan.path
    whole = plan.execute(case.arrays, "numpy").value()
    assert np.allclose(cut.execute(case.arrays, "numpy").value(), whole, rtol=1e-10)


def test_the_cheapest_index_of_the_costliest_step_is_taken() -> None:
    sizes = {"a": 1, "b": 7, "c": 5, "d": 2, "e": 3}
    # ab, bc -> ac is the costliest step; sliced along b, ac, ce -> ae would be done seven times
    path = ((0, 1), (0, 1), (0, 1))
    plan = engine.Plan(("ab", "bc", "cd", "de"), ("a", "e"), sizes, path)
    cut = in_slices(plan, 2)
    assert cut.slices == ("c",)
    along = {index: replace(plan, slices=(index,)).flops for index in "bc"}
    assert cut.flops == along["c"] < along["b"]
    # of what is left there, b
    assert in_slices(plan, 6).slices == ("c", "b")


def test_a_batch_is_divided_first() -> None:
    case = build(Contraction(network="qrt-chain", size=4, bond=2, modulus=3, batch=6), 1)
    plan = engine.plan(case.structure, use_cache=False)
    assert in_slices(plan, 6, ["z"]).slices == ("z",)
    more = in_slices(plan, 7, ["z"])
    assert more.slices[0] == "z"
    assert more.slice_count > 6
    assert in_slices(plan, 1, ["z"]).slices == ()
    whole = plan.execute(case.arrays, "numpy").value()
    assert np.allclose(more.execute(case.arrays, "numpy").value(), whole, rtol=1e-10)


def test_more_slices_than_there_can_be() -> None:
    plan = engine.plan((("ab", "bc"), "ac", {"a": 2, "b": 3, "c": 1}), use_cache=False)
    assert in_slices(plan, 6).slice_count == 6
    with pytest.raises(ValueError, match="slices is 7, and the network has 6 at most"):
        in_slices(plan, 7)
