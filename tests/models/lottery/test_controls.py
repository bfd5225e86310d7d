"""Controls: what each keeps of the ticket, exactly, and that it redraws the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.lottery.controls import keep_signs, random_masks
from qrt_tn.models.lottery.masks import full_masks, is_within, layers, with_layers
from qrt_tn.models.lottery.pruning import kept_counts

SHAPES = {"conv": (3, 3, 2, 4), "output": (12, 5)}


def parameters(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": rng.normal(size=s).astype(dtype), "bias": rng.normal(size=s[-1]).astype(dtype)}
        for name, s in SHAPES.items()
    }


def some_masks(share, seed=3):
    rng = np.random.default_rng(seed)
    masks = full_masks(parameters(0))
    return with_layers(masks, {name: rng.random(m.shape) < share for name, m in layers(masks).items()})


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_signs_are_kept_and_sizes_redrawn(dtype):
    fresh, initial, masks = parameters(1, dtype), parameters(2, dtype), some_masks(0.4)
    initial["conv"]["kernel"].flat[0], masks["conv"]["kernel"].flat[0] = 0, True
    result = keep_signs(fresh, initial, masks)
    for name in SHAPES:
        mask, old, drawn = (tree[name]["kernel"] for tree in (masks, initial, fresh))
        new = np.asarray(result[name]["kernel"])
        assert new.dtype == dtype
        assert not new[~mask].any()
        assert (abs(new) == abs(drawn))[mask].all()
        assert (np.sign(new) == np.where(old == 0, np.sign(drawn), np.sign(old)))[mask].all()
        assert (new != drawn)[mask].sum() > 5
        assert result[name]["bias"] is fresh[name]["bias"]


def test_masks_and_parameters_match_by_name_whether_dicts_or_a_state():
    dicts = [{"kernel": p["output"]["kernel"], "bias": p["output"]["bias"]} for p in map(parameters, (0, 1))]
    states = [nnx.State({name: nnx.Param(leaf) for name, leaf in tree.items()}) for tree in dicts]
    masks = with_layers(full_masks(states[0]), {"kernel": np.arange(60).reshape(12, 5) % 3 == 0})
    plain = nnx.to_pure_dict(masks)
    expected = keep_signs(*dicts, plain)
    for trees in ((*states, masks), (*dicts, masks), (*states, plain), (states[0], dicts[1], masks)):
        result = keep_signs(*trees)
        result = nnx.to_pure_dict(result) if isinstance(result, nnx.State) else result
        jax.tree.map(np.testing.assert_array_equal, result, expected)
    wrong = {**dicts[1], "kernel": dicts[1]["kernel"].T}
    for trees in ((dicts[0], wrong), (wrong, dicts[0])):
        with pytest.raises(ValueError, match="the mask of 'kernel' has shape"):
            keep_signs(*trees, plain)


def test_random_masks_keep_the_counts_within_those_given():
    masks = some_masks(0.6)
    kept = kept_counts(masks, dict.fromkeys(layers(masks), 0.3), 2)
    found = random_masks(masks, kept, 4)
    assert {name: mask.sum() for name, mask in layers(found).items()} == kept
    assert is_within(found, masks)
    again = random_masks(masks, dict(reversed(kept.items())), np.random.default_rng(4))
    jax.tree.map(np.testing.assert_array_equal, again, found)
    other = random_masks(masks, {"output/kernel": 7}, 5)
    assert other["conv"]["kernel"] is masks["conv"]["kernel"]
    assert other["output"]["kernel"].sum() == 7
    for name, count in (("", 10), ("conv/kernel", 0), ("conv/kernel", 73), ("conv/kernel", 3.0)):
        with pytest.raises(ValueError, match=f"'{name}'"):
            random_masks(masks, {name: count}, 0)


def test_random_masks_are_uniform():
    masks = {"kernel": np.array([[True, True, False], [True, True, True]])}
    rng = np.random.default_rng(0)
    draws = [random_masks(masks, {"kernel": 2}, rng)["kernel"] for _ in range(2000)]
    pairs, frequency = np.unique([draw.ravel() for draw in draws], axis=0, return_counts=True)
    assert len(pairs) == 10
    # each of the 10 pairs 200 times, give or take 5 standard deviations
    assert np.abs(frequency - 200).max() < 5 * np.sqrt(180)
