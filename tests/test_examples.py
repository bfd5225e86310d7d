"""The examples in docstrings print what they say."""

import doctest
import importlib

import pytest

MODULES = (
    *("nodes", "quantize", "sampling", "tempered.sampling"),
    *("states.dense", "states.interpolated", "states.network", "states.points", "states.ridges"),
    *("ridgelet", "states.mps.state", "transform"),
    *("models.residual", "models.estimators", "models.ridge", "models.dense", "models.readout"),
    *("models.teachers", "models.tickets", "models.targets", "models.tables", "models.features"),
    *("models.datasets", "models.images", "models.splits", "models.vision", "models.shallow_training"),
    *("models.lottery.masked", "models.lottery.masks", "models.lottery.presets", "models.lottery.pruning"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"qrt_tn.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
