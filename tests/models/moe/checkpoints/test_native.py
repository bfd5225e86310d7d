import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from qrt_tn.models.moe.checkpoints.native import load_moe, load_moe_tree, save_moe, save_moe_tree
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import to_tree
from qrt_tn.models.moe.vit import VisionMoe
from tests.models.moe.checkpoints.vmoe_format import assert_same
from tests.models.moe.conftest import small_config


@pytest.fixture(scope="module")
def network():
    """A pruned one."""
    config = small_config(maps={1: ExpertMap((0, 1, -1, 0), (3, 1), 4)}, representation=5)
    made = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    nnx.update(made, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), nnx.state(made)))
    return made


def test_a_network_comes_back(network, tmp_path):
    path = tmp_path / "a.safetensors"
    save_moe(path, network, about={"criterion": "router-change"})
    again = load_moe(path, dispatch="einsum")
    assert again.config == network.config
    assert_same(*(jax.tree.map(np.array, to_tree(each)) for each in (again, network)))
    assert load_moe_tree(path)[2] == {"criterion": "router-change"}


def test_what_does_not_fit_is_not_written(network, tmp_path):
    tree = to_tree(network)
    tree["head"]["bias"] = np.zeros(4)
    with pytest.raises(ValueError, match="head/bias"):
        save_moe_tree(tmp_path / "a.safetensors", tree, network.config)
    with pytest.raises(ValueError, match="cannot be kept as JSON"):
        save_moe(tmp_path / "a.safetensors", network, about={"what": {1, 2}})
    assert not list(tmp_path.iterdir())


def test_files_of_something_else_are_refused(network, tmp_path):
    path = tmp_path / "b.safetensors"
    with pytest.raises(ValueError, match="no file"):
        load_moe(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_moe(path)
    save_file({"model.layers.0.mlp.gate.weight": np.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="'pt'"):
        load_moe(path)
    save_moe(path, network)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="checksum"):
        load_moe(path)
