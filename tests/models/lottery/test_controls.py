"""Controls: what each keeps of the ticket, exactly, and that it redraws the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.lottery.controls import constant_signs, keep_signs, shuffle_masks, shuffle_weights
from qrt_tn.models.lottery.masks import full_masks, layers, with_layers

SHAPES = {"conv": (3, 3, 2, 4), "output": (12, 5)}
DTYPES = [np.float32, np.float64, np.float16, jnp.bfloat16]


def parameters(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    made = {
        name: {"kernel": rng.normal(size=s).astype(dtype), "bias": rng.normal(size=s[-1]).astype(dtype)}
        for name, s in SHAPES.items()
    }
    made["conv"]["kernel"] = made["conv"]["kernel"] * np.array(0.25, dtype)
    made["conv"]["kernel"].flat[0] = 0 if seed == INITIAL else -1
    return made


FRESH, INITIAL = 1, 2


def ticket(seed=3):
    rng = np.random.default_rng(seed)
    masks = full_masks(parameters(0))
    masks = with_layers(masks, {name: rng.random(m.shape) < 0.4 for name, m in layers(masks).items()})
    masks["conv"]["kernel"].flat[0] = True  # where the initial weight is 0
    return masks


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_control_keeps_what_it_says_of_every_weight(dtype):
    fresh, initial, masks = parameters(FRESH, dtype), parameters(INITIAL, dtype), ticket()
    before = jax.tree.map(np.copy, (fresh, initial, masks))
    results = {
        "signs": keep_signs(fresh, initial, masks),
        "constant": constant_signs(initial, masks),
        "shuffled": shuffle_weights(initial, masks, 8),
    }
    assert_equal((fresh, initial, masks), before)
    for name in SHAPES:
        mask, old, drawn = masks[name]["kernel"], initial[name]["kernel"], fresh[name]["kernel"]
        for control, result in results.items():
            new = result[name]["kernel"]
            assert isinstance(new, np.ndarray) and new.dtype == dtype
            assert not new[~mask].any()
            assert result[name]["bias"] is (fresh if control == "signs" else initial)[name]["bias"]
        new, old_kept, drawn_kept = results["signs"][name]["kernel"][mask], old[mask], drawn[mask]
        assert (abs(new) == abs(drawn_kept)).all()
        assert (np.sign(new) == np.where(old_kept == 0, np.sign(drawn_kept), np.sign(old_kept))).all()
        assert (new != drawn_kept).sum() > 5
        # the deviation is of all initial weights, not only of those kept
        wide = old.astype(np.float64)
        deviation = np.sqrt(np.mean(np.square(wide - wide.mean())))
        np.testing.assert_allclose(
            results["constant"][name]["kernel"][mask].astype(np.float64),
            deviation * np.sign(wide[mask]),
            rtol=1e-2 if old.itemsize < 4 else 1e-6,
        )
        moved = results["shuffled"][name]["kernel"][mask]
        assert np.sort(moved).tobytes() == np.sort(old_kept).tobytes()
        assert (moved != old_kept).mean() > 0.8


def test_shuffled_masks_have_the_same_sparsity_layer_by_layer():
    masks = ticket()
    before = jax.tree.map(np.copy, masks)
    result = shuffle_masks(masks, 10)
    assert_equal(masks, before)
    for name, old in layers(masks).items():
        new = layers(result)[name]
        assert (new.shape, new.dtype, new.sum()) == (old.shape, bool, old.sum())
        assert (new != old).any()
    assert result["conv"]["bias"] is None


def test_permutations_are_uniform():
    masks = {"kernel": np.array([[True, False], [True, False]])}
    params = {"kernel": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}
    rng = np.random.default_rng(11)
    drawn = [shuffle_masks(masks, rng)["kernel"].ravel() for _ in range(1200)]
    kinds, frequency = np.unique(drawn, axis=0, return_counts=True)
    assert len(kinds) == 6
    assert np.abs(frequency - 200).max() < 5 * np.sqrt(167)
    swapped = sum(shuffle_weights(params, masks, rng)["kernel"][0, 0] == 3 for _ in range(400))
    assert abs(swapped - 200) < 5 * 10


@pytest.mark.parametrize(
    "shuffle", [lambda s: shuffle_masks(ticket(), s), lambda s: shuffle_weights(parameters(0), ticket(), s)]
)
def test_a_seed_gives_the_same_again(shuffle):
    once, again, other = shuffle(3), shuffle(np.random.default_rng(3)), shuffle(4)
    assert_equal(once, again)
    assert (once["output"]["kernel"] != other["output"]["kernel"]).any()
    with pytest.raises(ValueError, match="seed is -1"):
        shuffle(-1)


CONTROLS = [
    keep_signs,
    lambda fresh, initial, masks: keep_signs(initial, fresh, masks),
    lambda fresh, initial, masks: constant_signs(initial, masks),
    lambda fresh, initial, masks: shuffle_weights(initial, masks, 0),
]


@pytest.mark.parametrize("control", CONTROLS)
def test_arrays_of_jax_stay_so_and_parameters_of_another_shape_are_refused(control):
    trees = parameters(FRESH), parameters(INITIAL), ticket()
    result = control(*jax.tree.map(jnp.asarray, trees))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(result))
    assert_equal(result, control(*trees))
    assert_equal(shuffle_masks(jax.tree.map(jnp.asarray, trees[2]), 5), shuffle_masks(trees[2], 5))
    wrong = parameters(INITIAL)
    wrong["output"]["kernel"] = wrong["output"]["kernel"].T
    with pytest.raises(ValueError, match="the mask of 'output/kernel' has shape"):
        control(trees[0], wrong, trees[2])


@pytest.mark.parametrize("control", CONTROLS)
def test_masks_and_parameters_match_by_name_whether_dicts_or_a_state(control):
    states = [nnx.state(nnx.Linear(6, 4, rngs=nnx.Rngs(seed)), nnx.Param) for seed in (0, 1)]
    masks = with_layers(full_masks(states[0]), {"kernel": np.arange(24).reshape(6, 4) % 3 == 0})
    dicts = [nnx.to_pure_dict(state) for state in states]
    expected = control(*dicts, nnx.to_pure_dict(masks))
    for trees in (
        (*states, masks),
        (*dicts, masks),
        (*states, nnx.to_pure_dict(masks)),
        (states[0], dicts[1], masks),
    ):
        result = control(*trees)
        assert_equal(nnx.to_pure_dict(result) if isinstance(result, nnx.State) else result, expected)
