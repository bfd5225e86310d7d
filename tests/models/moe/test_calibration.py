import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import to_tree
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config

TIGHT = small_config(router={"capacity_factor": 1.0})  # of one shape, so that programs are shared


def test_statistics_are_those_of_loops(images):
    config = TIGHT
    network = random_network(config)
    found = calibrate(network, images[0], batch_size=4, sample_tokens=15)[1]
    _, seen = nnx.jit(lambda network, x: network.observe(x))(network, images[0])
    inputs = np.asarray(seen[1].inputs).reshape(12, 10, 8)
    moe = to_tree(network)["Encoder"]["encoderblock_1"]["Moe"]
    mlp = moe["Mlp"]
    count, gates, norms = np.zeros(4, int), np.zeros(4), np.zeros(4)
    for image in inputs:
        logits = image @ moe["Router"]["dense"]["kernel"]
        for token, row in enumerate(brute_force.weights(logits, config.router, config.expert_map(1))):
            for column in np.flatnonzero(row):
                inside = image[token] @ mlp["Dense_0"]["kernel"][column] + mlp["Dense_0"]["bias"][column]
                out = brute_force.gelu(inside) @ mlp["Dense_1"]["kernel"][column]
                count[column] += 1
                gates[column] += row[column]
                norms[column] += np.linalg.norm(out + mlp["Dense_1"]["bias"][column])
    np.testing.assert_array_equal(found.count, count)
    np.testing.assert_allclose(found.gate_sum, gates, rtol=1e-4)
    np.testing.assert_allclose(found.norm_sum, norms, rtol=1e-4)
    assert found.tokens == 120
    np.testing.assert_allclose(found.sample, inputs.reshape(-1, 8)[:15], rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter_and_may_be_a_stream(images):
    network = random_network(TIGHT)
    whole = calibrate(network, images[0])
    seen = []
    parts = calibrate(network, (images[0][i : i + 4] for i in (0, 4, 8)), progress=seen.append)
    assert seen == [4, 8, 12]
    np.testing.assert_array_equal(whole[1].count, parts[1].count)
    np.testing.assert_allclose(whole[1].gate_sum, parts[1].gate_sum, rtol=1e-5)
    np.testing.assert_allclose(whole[1].logit_gram, parts[1].logit_gram, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(whole[1].sample, parts[1].sample, rtol=1e-3, atol=1e-4)


def test_columns_without_an_expert_count_nothing(images):
    network = random_network(small_config(maps={1: ExpertMap((0, -1, 1, -1), (1, 3), 4)}))
    found = calibrate(network, images[0])[1]
    assert (found.count[[1, 3]] == 0).all()
    assert (found.count[[0, 2]] > 0).all()


def test_no_images_are_refused(images):
    network = random_network(small_config())
    with pytest.raises(ValueError, match="no images to calibrate with"):
        calibrate(network, iter([]))
    with pytest.raises(ValueError, match="do not fit"):
        calibrate(network, images[0][:0])
    with pytest.raises(ValueError, match="batch_size is 0"):
        calibrate(network, images[0], batch_size=0)


def test_arrays_of_jax_and_lists_of_batches_count_alike(images):
    network = random_network(TIGHT)
    whole = calibrate(network, images[0])[1].count
    np.testing.assert_array_equal(calibrate(network, jnp.asarray(images[0]))[1].count, whole)
    np.testing.assert_array_equal(calibrate(network, [images[0].tolist()])[1].count, whole)


def test_groups_across_images_stay_whole(images):
    network = random_network(small_config(group=40))  # of four images
    parts = calibrate(network, images[0], batch_size=7)[1]
    np.testing.assert_array_equal(parts.count, calibrate(network, images[0], batch_size=12)[1].count)
    with pytest.raises(ValueError, match="10 images do not make groups of 4"):
        calibrate(network, images[0][:10])
