from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.studies.report import draw_state
from qrt_tn.studies.report.state_panels import RANKS, leading_schmidt_values


def chain(bond: int, dim: int) -> states.MPSState:
    rng = np.random.default_rng(bond)
    bonds = [1] + [bond] * (dim - 1) + [1]
    return states.from_mps([rng.normal(size=(bonds[i], 5, bonds[i + 1])) for i in range(dim)])


def test_leading_schmidt_values_are_those_of_the_matrix() -> None:
    state = chain(4, 4)
    dense = state.network().to_dense(["x0"], ["x1"], ["x2"], ["x3"])
    for cut, row in enumerate(leading_schmidt_values(state.schmidt_values()), start=1):
        exact = np.linalg.svd(dense.reshape(5**cut, -1), compute_uv=False)
        assert len(row) == sum(rank <= min(4, 5**cut) for rank in RANKS)
        assert row == pytest.approx([exact[rank - 1] / exact[0] for rank in RANKS[: len(row)]])


def test_a_state_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "state.svg"
    draw_state(chain(4, 9), path)
    first, found = path.read_bytes(), {*ElementTree.parse(path).getroot().itertext()}
    assert {"Bond dimension", "k = 2", "k = 4"} <= found
    assert "k = 8" not in found
    draw_state(chain(4, 9), path)
    assert path.read_bytes() == first


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DenseState has no bonds to draw"):
        draw_state(states.from_dense(np.ones((3, 3))), tmp_path / "state.svg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state of one site"):
        draw_state(chain(1, 1), tmp_path / "state.svg")
    assert list(tmp_path.iterdir()) == []
