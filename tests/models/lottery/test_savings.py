"""Bytes of files, operations and measured forms of pruned networks."""

import gzip

import jax
import numpy as np
import pytest
import scipy.sparse
from flax import nnx
from safetensors.numpy import load_file, save_file

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.dense import DenseNetwork
from qrt_tn.models.lottery.masks import apply_masks, full_masks, layers, with_layers
from qrt_tn.models.lottery.savings import (
    flops,
    load_ticket,
    measure,
    save_ticket,
    storage,
    weight_uses,
)

KERNELS = ("dense1/kernel", "dense2/kernel", "output/kernel")


def _params(rng, widths=(12, 9, 7, 3)):
    shapes = zip(("dense1", "dense2", "output"), widths[:-1], widths[1:], strict=True)
    return {
        name: {
            "kernel": rng.normal(size=(one, other)).astype(np.float32),
            "bias": rng.normal(size=other).astype(np.float32),
        }
        for name, one, other in shapes
    }


def _pruned(rng, params, density):
    masks = full_masks(params)
    return with_layers(
        masks, {name: rng.random(mask.shape) < density for name, mask in layers(masks).items()}
    )


def _bits(value):
    return np.asarray(value).tobytes()


def test_a_ticket_comes_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    params = {
        "blocks": {
            0: {"kernel": rng.normal(size=(3, 3, 2, 5)).astype(np.float32), "scale": np.float32(0.25)},
            1: {"kernel": rng.normal(size=(5, 4)), "bias": rng.normal(size=4).astype(np.float16)},
        },
        "output": {"kernel": rng.normal(size=(4, 2)).astype(np.float32), "count": np.arange(3)},
    }
    masks = _pruned(rng, params, 0.4)
    # the output layer is not pruned, and values that == takes for others or for none survive
    masks["output"]["kernel"] = None
    masks["blocks"][0]["kernel"][0, 0, 0, :3] = True
    params["blocks"][0]["kernel"][0, 0, 0, :3] = [-0.0, np.nan, np.inf]
    path = tmp_path / "ticket.safetensors"
    save_ticket(path, params, masks)
    loaded, loaded_masks = load_ticket(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert loaded_masks["output"] == {"kernel": None, "count": None}
    kept = layers(masks)
    assert layers(loaded_masks).keys() == kept.keys()
    before = layers(params)
    for name, value in layers(loaded).items():
        expected = np.where(kept[name], before[name], 0) if name in kept else before[name]
        assert (value.dtype, value.shape) == (before[name].dtype, before[name].shape)
        if name in kept:
            np.testing.assert_array_equal(layers(loaded_masks)[name], kept[name])
            assert _bits(value[kept[name]]) == _bits(before[name][kept[name]])
            assert not value[~kept[name]].any()
        else:
            assert _bits(value) == _bits(expected)


def test_a_ticket_of_a_network_serves_it_again(tmp_path):
    network = DenseNetwork(6, 8, 2, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    masks = _pruned(np.random.default_rng(1), params, 0.5)
    save_ticket(tmp_path / "t.safetensors", params, masks)
    loaded, _ = load_ticket(tmp_path / "t.safetensors")
    nnx.update(network, loaded)
    expected = apply_masks(masks, params)
    np.testing.assert_array_equal(network.hidden_kernel[...], expected["hidden_kernel"])
    np.testing.assert_array_equal(network.kernel[...], expected["kernel"])


def test_torn_and_foreign_files_are_refused(tmp_path):
    rng = np.random.default_rng(2)
    params = _params(rng)
    path = tmp_path / "ticket.safetensors"
    save_ticket(path, params, _pruned(rng, params, 0.5))
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            load_ticket(path)
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match="no named format"):
        load_ticket(path)
    with pytest.raises(ValueError, match="no file"):
        load_ticket(tmp_path / "absent.safetensors")


def test_a_ticket_whose_parts_do_not_fit_is_refused(tmp_path):
    rng = np.random.default_rng(3)
    params = {"output": {"kernel": rng.normal(size=(3, 3)).astype(np.float32)}}
    masks = {"output": {"kernel": np.eye(3, dtype=bool)}}
    path = tmp_path / "ticket.safetensors"
    save_ticket(path, params, masks)
    tensors = load_file(path)
    metadata = load_tensors(path, "qrt-tn.lottery-ticket")[1]
    mask = tensors["output/kernel:mask"]
    assert len(mask) == 2
    damages = {
        "too few values": {"output/kernel:values": tensors["output/kernel:values"][:2]},
        "a bit more": {"output/kernel:mask": mask | np.array([64, 0], dtype=np.uint8)},
        "a bit beyond the end": {"output/kernel:mask": mask ^ np.array([128, 1], dtype=np.uint8)},
        "a byte more": {"output/kernel:mask": np.append(mask, np.uint8(0))},
        "another type": {"output/kernel:mask": mask.astype(np.float32)},
    }
    for damage in damages.values():
        save_tensors(path, {**tensors, **damage}, metadata)
        with pytest.raises(ValueError, match="not a whole ticket"):
            load_ticket(path)
    save_tensors(path, {"output/kernel:mask": mask}, metadata)
    with pytest.raises(ValueError, match="not a whole ticket"):
        load_ticket(path)
    save_tensors(path, tensors, {"format": metadata["format"]})
    with pytest.raises(ValueError, match="not a whole ticket"):
        load_ticket(path)
    save_tensors(path, tensors, metadata)
    np.testing.assert_array_equal(load_ticket(path)[1]["output"]["kernel"], np.eye(3, dtype=bool))


def test_what_a_ticket_does_not_hold_is_refused(tmp_path):
    path = tmp_path / "ticket.safetensors"
    kernel = np.ones((2, 2), dtype=np.float32)
    mask = np.ones((3, 2), dtype=bool)
    with pytest.raises(ValueError, match="has shape"):
        save_ticket(path, {"kernel": kernel}, {"kernel": mask})
    with pytest.raises(ValueError, match="has shape"):
        storage({"kernel": kernel}, {"kernel": mask})
    complex_kernel = {"kernel": kernel.astype(np.complex64)}
    with pytest.raises(ValueError, match="dtype complex64"):
        save_ticket(path, complex_kernel, full_masks(complex_kernel))
    in_list = {"layers": [{"kernel": kernel}]}
    with pytest.raises(ValueError, match="nested dicts"):
        save_ticket(path, in_list, full_masks(in_list))
    twice = {"a": {"kernel": kernel}, "a/kernel": kernel}
    with pytest.raises(ValueError, match="two parameters are named 'a/kernel'"):
        save_ticket(path, twice, full_masks(twice))
    assert not path.exists()


def test_sizes_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(4)
    params = _params(rng, (64, 48, 32, 10))
    masks = _pruned(rng, params, 0.1)
    kept, values = layers(masks), layers(params)
    sizes = storage(params, masks)
    path = tmp_path / "file.safetensors"

    save_ticket(path, params, masks)
    assert 0 <= path.stat().st_size - sizes.ticket <= 64  # the file's checksum
    assert 0 <= len(gzip.compress(path.read_bytes(), 9, mtime=0)) - sizes.ticket_compressed <= 64
    zeros = {n: np.where(kept[n], v, np.float32(0)) if n in kept else v for n, v in values.items()}
    save_file(zeros, path)
    assert sizes.dense == path.stat().st_size
    assert sizes.compressed == len(gzip.compress(path.read_bytes(), 9, mtime=0))
    csr, coo = {}, {}
    for name, value in values.items():
        if name in kept:
            matrix = scipy.sparse.csr_array(zeros[name].T)
            both = np.stack(matrix.tocoo().coords, axis=1).astype(np.int32)
            csr |= {f"{name}:data": matrix.data, f"{name}:columns": matrix.indices.astype(np.int32)}
            csr |= {f"{name}:rows": matrix.indptr.astype(np.int32)}
            coo |= {f"{name}:data": matrix.data, f"{name}:indices": both}
        else:
            csr[name] = coo[name] = value
    save_file(csr, path)
    assert sizes.csr == path.stat().st_size
    save_file(coo, path)
    assert sizes.coo == path.stat().st_size
    assert sizes.kept == sum(mask.sum() for mask in kept.values())
    assert sizes.weights == 64 * 48 + 48 * 32 + 32 * 10
    assert sizes.ticket < sizes.csr < sizes.coo < sizes.dense


def test_float64_parameters_keep_their_size():
    params = {"kernel": np.ones((40, 50))}
    assert storage(params, full_masks(params)).dense > 40 * 50 * 8


def test_flops_count_each_use_of_a_weight_twice():
    params = {
        "conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)},
        "output": {"kernel": np.ones((10, 5)), "bias": np.ones(5)},
    }
    masks = full_masks(params, lambda name, leaf: name == "conv/kernel")
    masks["conv"]["kernel"][0] = False
    counted = flops(params, masks, {"conv/kernel": 36})
    assert counted.dense == 2 * (72 * 36 + 50)
    assert counted.surviving == 2 * (48 * 36 + 50)
    with pytest.raises(ValueError, match="'conv/kernel' has shape"):
        flops(params, masks)
    for uses in ({"conv/bias": 3}, {"conv/kernel": 0}, {"conv/kernel": 2.5}):
        with pytest.raises(ValueError, match="give at least 1"):
            flops(params, masks, uses)


class _Images(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(1, 3, (3, 3), padding="SAME", rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(3, 2, (3, 3), strides=2, padding="VALID", rngs=rngs)])
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.output = nnx.Linear(2 * 3 * 4, 5, rngs=rngs)

    def __call__(self, x):
        h = self.norm(nnx.relu(self.blocks[0](self.stem(x))))
        return self.output(h.reshape(len(x), -1))


def test_uses_are_the_pixels_of_each_output():
    network = _Images()
    x = np.random.default_rng(5).normal(size=(4, 8, 10, 1)).astype(np.float32)
    statistics = np.asarray(network.norm.mean[...])
    uses = weight_uses(network, x)
    # 8 x 10 pixels at full extent; (8 - 3) // 2 + 1 = 3 by (10 - 3) // 2 + 1 = 4 after the second
    assert uses == {"stem/kernel": 80, "blocks/0/kernel": 12}
    assert weight_uses(network, jax.ShapeDtypeStruct((1, 8, 10, 1), np.float32)) == uses
    np.testing.assert_array_equal(network.norm.mean[...], statistics)
    assert network.stem.conv_general_dilated is jax.lax.conv_general_dilated
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    masks = full_masks(params)
    assert flops(params, masks, uses).dense == 2 * (80 * 9 * 3 + 12 * 9 * 3 * 2 + 24 * 5)
    assert storage(params, masks).weights == 27 + 54 + 120


def test_measured_forms_agree_and_hold_what_they_hold():
    rng = np.random.default_rng(6)
    params = _params(rng)
    masks = _pruned(rng, params, 0.3)
    masks["dense2"]["kernel"][:, 0] = False  # a constant unit
    masks["dense1"]["kernel"][4] = False  # an unread feature
    masks["output"]["kernel"][2] = False  # an unused unit
    x = rng.normal(size=(6, 12))
    rows = measure(params, masks, KERNELS, x, rounds=3)
    forms = ["dense", "dense with mask", "compacted", "BCOO", "BCSR"]
    assert [(row["batch"], row["form"]) for row in rows] == [(n, form) for n in (1, 6) for form in forms]
    weights, kept = 12 * 9 + 9 * 7 + 7 * 3, sum(mask.sum() for mask in layers(masks).values())
    units = 9 + 7 + 3
    for row in rows:
        assert 0 < row["seconds_min"] <= row["seconds"]
        assert row["max_difference"] < 1e-5
        # a file holds the same arrays, and a header
        assert 0 < row["disk_bytes"] - row["memory_bytes"] < 2000
    for one in (rows[:5], rows[5:]):
        dense, masked, compacted, coo, csr = one
        assert dense["memory_bytes"] == 4 * (weights + units)
        assert masked["memory_bytes"] == 4 * (2 * weights + units)
        assert coo["memory_bytes"] == 4 * (3 * kept + units)
        assert csr["memory_bytes"] == 4 * (2 * kept + units + units + 3)
        assert compacted["memory_bytes"] < dense["memory_bytes"]
        assert dense["flops"] == masked["flops"] == 2 * weights
        assert coo["flops"] == csr["flops"] == 2 * kept
        assert 2 * kept - 2 * 9 - 2 * 7 <= compacted["flops"] < 2 * weights
        assert dense["max_difference"] == 0


def test_a_batch_of_one_is_measured_once():
    params = {"kernel": np.ones((3, 2), dtype=np.float32)}
    rows = measure(params, full_masks(params), ["kernel"], np.ones((1, 3)), rounds=1)
    assert [row["batch"] for row in rows] == [1] * 5


def test_what_cannot_be_measured_is_refused():
    rng = np.random.default_rng(7)
    params = _params(rng)
    masks = full_masks(params)
    for x in (np.ones((2, 3, 4)), np.ones((2, 11)), np.ones((0, 12))):
        with pytest.raises(ValueError, match="x has shape"):
            measure(params, masks, KERNELS, x)
    for rounds in (0, 2.5, True):
        with pytest.raises(ValueError, match="rounds is"):
            measure(params, masks, KERNELS, np.ones((2, 12)), rounds)
    with pytest.raises(ValueError, match="the masks lack"):
        measure(params, {"dense1": masks["dense1"]}, KERNELS, np.ones((2, 12)))
