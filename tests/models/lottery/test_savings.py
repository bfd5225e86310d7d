"""Bytes of files, and operations of pruned networks."""

import gzip

import jax
import numpy as np
import pytest
import scipy.sparse
from flax import nnx
from safetensors.numpy import load_file, save_file

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.lottery.masks import full_masks, layers, with_layers
from qrt_tn.models.lottery.savings import flops, load_ticket, save_ticket, storage, weight_uses


def pruned(rng, params, density):
    masks = full_masks(params)
    return with_layers(
        masks, {name: rng.random(mask.shape) < density for name, mask in layers(masks).items()}
    )


def test_a_ticket_comes_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    params = {
        "blocks": {
            0: {"kernel": rng.normal(size=(3, 3, 2, 5)).astype(np.float32), "scale": np.float32(0.25)},
            1: {"kernel": rng.normal(size=(5, 4)), "bias": rng.normal(size=4).astype(np.float16)},
        },
        "output": {"kernel": rng.normal(size=(4, 2)).astype(np.float32), "count": np.arange(3)},
    }
    masks = pruned(rng, params, 0.4)
    # the output layer is not pruned, and values that == takes for others or for none survive
    masks["output"]["kernel"] = None
    masks["blocks"][0]["kernel"][0, 0, 0, :3] = True
    params["blocks"][0]["kernel"][0, 0, 0, :3] = [-0.0, np.nan, np.inf]
    save_ticket(tmp_path / "ticket.safetensors", params, masks)
    loaded, loaded_masks = load_ticket(tmp_path / "ticket.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert loaded_masks["output"] == {"kernel": None, "count": None}
    jax.tree.map(np.testing.assert_array_equal, loaded_masks, masks)
    kept, before = layers(masks), layers(params)
    for name, value in layers(loaded).items():
        expected = (
            np.where(kept[name], before[name], before[name].dtype.type(0)) if name in kept else before[name]
        )
        assert (value.dtype, value.shape) == (before[name].dtype, before[name].shape)
        assert value.tobytes() == expected.tobytes()


def test_a_ticket_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "ticket.safetensors"
    save_ticket(path, {"kernel": np.ones((3, 3), np.float32)}, {"kernel": np.eye(3, dtype=bool)})
    tensors, (_, metadata) = load_file(path), load_tensors(path, "qrt-tn.lottery-ticket")
    fewer = {**tensors, "kernel:values": tensors["kernel:values"][:2]}
    maskless = {"kernel:values": tensors["kernel:values"]}
    for damage, about in ((fewer, metadata), (maskless, metadata), (tensors, {"format": metadata["format"]})):
        save_tensors(path, damage, about)
        with pytest.raises(ValueError, match="not a whole ticket"):
            load_ticket(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_ticket(path)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": np.ones((2, 2), jax.numpy.bfloat16)}, "bfloat16"),
        ({"layers": [{"kernel": np.ones((2, 2))}]}, "nested dicts"),
        ({"a": {"kernel": np.ones((2, 2))}, "a/kernel": np.ones((2, 2))}, "are named 'a/kernel'"),
    ],
)
def test_what_a_ticket_does_not_hold_is_refused(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_ticket(tmp_path / "ticket.safetensors", params, full_masks(params))
    for function in (storage, flops):
        with pytest.raises(ValueError, match="the masks lack"):
            function(params, {})
    assert not list(tmp_path.iterdir())


def test_sizes_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(4)
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.ones(shape[-1], np.float32)}
        for name, shape in {"conv": (3, 3, 8, 48), "output": (48, 32)}.items()
    }
    masks = pruned(rng, params, 0.1)
    kept, values = layers(masks), layers(params)
    sizes = storage(params, masks)
    path = tmp_path / "file.safetensors"

    save_ticket(path, params, masks)
    assert 0 <= path.stat().st_size - sizes["mask and values"] <= 64  # the file's checksum
    packed = len(gzip.compress(path.read_bytes(), 9, mtime=0))
    assert 0 <= packed - sizes["mask and values, gzip"] <= 64
    zeros = {n: np.where(kept[n], v, np.float32(0)) if n in kept else v for n, v in values.items()}
    save_file(zeros, path)
    assert sizes["dense"] == path.stat().st_size
    assert sizes["dense, gzip"] == len(gzip.compress(path.read_bytes(), 9, mtime=0))
    csr, coo = {}, {}
    for name, value in values.items():
        if name not in kept:
            csr[name] = coo[name] = value
            continue
        matrix = scipy.sparse.csr_array(zeros[name].reshape(-1, value.shape[-1]).T)
        both = np.stack(matrix.tocoo().coords, axis=1).astype(np.int32)
        csr |= {f"{name}:data": matrix.data, f"{name}:columns": matrix.indices.astype(np.int32)}
        csr |= {f"{name}:rows": matrix.indptr.astype(np.int32)}
        coo |= {f"{name}:data": matrix.data, f"{name}:indices": both}
    for kind, tensors in (("CSR", csr), ("COO", coo)):
        save_file(tensors, path)
        assert sizes[kind] == path.stat().st_size
    assert sizes["mask and values"] < sizes["CSR"] < sizes["COO"] < sizes["dense"]


def test_flops_count_each_use_of_a_weight_twice():
    params = {
        "conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)},
        "output": {"kernel": np.ones((10, 5)), "bias": np.ones(5)},
    }
    masks = full_masks(params, lambda name, leaf: name == "conv/kernel")
    masks["conv"]["kernel"][0] = False
    assert flops(params, masks, {"conv/kernel": 36}) == (2 * (72 * 36 + 50), 2 * (48 * 36 + 50))
    with pytest.raises(ValueError, match="'conv/kernel' has shape"):
        flops(params, masks)


class Images(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(1, 3, (3, 3), padding="SAME", rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(3, 2, (3, 3), strides=2, padding="VALID", rngs=rngs)])

    def __call__(self, x):
        return self.blocks[0](self.stem(x))


def test_uses_are_the_pixels_of_each_output():
    network = nnx.eval_shape(Images)  # nothing is computed, so weights are not needed
    before = nnx.state(network)
    # 8 x 10 pixels at full extent; (8 - 3) // 2 + 1 = 3 by (10 - 3) // 2 + 1 = 4 after the second
    for x in (np.zeros((4, 8, 10, 1), np.float32), jax.ShapeDtypeStruct((1, 8, 10, 1), np.float32)):
        assert weight_uses(network, x) == {"stem/kernel": 80, "blocks/0/kernel": 12}
    assert nnx.state(network) == before
    assert network.stem.conv_general_dilated is jax.lax.conv_general_dilated
