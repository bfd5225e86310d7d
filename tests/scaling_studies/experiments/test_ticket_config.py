from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.experiments.ticket_config import TicketConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modulus": 128}, "128 is not prime; the next prime is 131"),
        ({"levels": 1}, "levels is 1"),
        ({"levels": 200}, "levels is 200"),
        ({"quantiser": "round"}, "'round'"),
        ({"activations": ("swish",)}, "'swish'"),
        ({"activations": ()}, "no activations given"),
        ({"smoothings": (0.5, -1.0)}, "-1.0"),
        ({"smoothings": (float("nan"),)}, "nan"),
        ({"broad": 0.0}, "0.0"),
        ({"tolerance": 2.0}, "tolerance is 2.0"),
        ({"nodes": (16, 0)}, "number of nodes is 0"),
        ({"nodes": (16, 16)}, "twice"),
        ({"seeds": 0}, "seeds is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"methods": ("qrt-smoothed", "magic")}, "'magic'"),
        ({"methods": ("filter",)}, "leave out qrt-smoothed"),
        ({"backend": "abacus"}, "'abacus'"),
        ({"backend": "jax"}, "'jax' executes contraction plans only"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TicketConfig(out=tmp_path / "new", **change)


def test_a_full_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        TicketConfig(out=tmp_path)


def test_nodes_are_sorted_and_settings_plain(tmp_path: Path) -> None:
    config = replace(TicketConfig(out=tmp_path / "new"), nodes=(64, 16), data=Path("points.npz"))
    assert config.nodes == (16, 64)
    assert config.plain()["data"] == "points.npz"
