import json

import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints.native import (
    load_moe,
    load_moe_orbax,
    load_moe_tree,
    save_moe,
    save_moe_orbax,
    save_moe_tree,
)
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.training import predict
from qrt_tn.models.moe.trees import to_tree
from tests.models.moe.conftest import random_network, small_config

CONFIGS = [{}, {"maps": {1: ExpertMap((0, 1, -1, 0), (3, 1), 4)}, "representation": 5}]


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32)


@pytest.mark.parametrize("changes", CONFIGS)
def test_a_network_comes_back_from_safetensors(changes, x, tmp_path):
    network = random_network(small_config(**changes))
    save_moe(tmp_path / "a.safetensors", network, about={"criterion": "router-change"})
    again = load_moe(tmp_path / "a.safetensors", dispatch="einsum")
    assert again.config == network.config
    np.testing.assert_allclose(predict(again, x), predict(network, x), rtol=1e-4, atol=1e-5)
    assert load_moe_tree(tmp_path / "a.safetensors")[2] == {"criterion": "router-change"}


@pytest.mark.parametrize("changes", CONFIGS)
def test_a_network_comes_back_from_orbax(changes, x, tmp_path):
    network = random_network(small_config(**changes))
    save_moe_orbax(tmp_path / "a", network)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    again = load_moe_orbax(tmp_path / "a")
    assert again.config == network.config
    np.testing.assert_array_equal(predict(again, x), predict(network, x))


def test_a_folder_is_not_overwritten(tmp_path):
    network = random_network(small_config())
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="exists; name a new folder"):
        save_moe_orbax(tmp_path / "a", network)
    assert not list((tmp_path / "a").iterdir())


def test_what_does_not_fit_is_not_written(tmp_path):
    config = small_config()
    tree = to_tree(random_network(config))
    tree["head"]["bias"] = np.zeros(4)
    with pytest.raises(ValueError, match="head/bias"):
        save_moe_tree(tmp_path / "a.safetensors", tree, config)
    with pytest.raises(ValueError, match="cannot be kept as JSON"):
        save_moe(tmp_path / "a.safetensors", random_network(config), about={"what": {1, 2}})
    assert not list(tmp_path.iterdir())


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        load_moe(tmp_path / "none.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_moe(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="not a folder that save_moe_orbax wrote"):
        load_moe_orbax(tmp_path / "none")
    save_moe_orbax(tmp_path / "c", random_network(small_config()))
    config = small_config(hidden=16).plain()
    (tmp_path / "c" / "qrt-tn-config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the configuration asks for"):
        load_moe_orbax(tmp_path / "c")
