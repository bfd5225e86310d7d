"""Controls: what each keeps of the ticket, exactly, and that it redraws the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.controls import constant_signs, keep_signs, shuffle_masks, shuffle_weights
from qrt_tn.models.lottery.masks import full_masks, layers, with_layers

SHAPES = {"conv": (3, 3, 2, 4), "output": (12, 5)}
DTYPES = [np.float32, np.float64, np.float16, jnp.bfloat16]


def parameters(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": rng.normal(size=s).astype(dtype), "bias": rng.normal(size=s[-1]).astype(dtype)}
        for name, s in SHAPES.items()
    }


def ticket(seed):
    rng = np.random.default_rng(seed)
    masks = full_masks(parameters(0))
    return with_layers(masks, {name: rng.random(m.shape) < 0.4 for name, m in layers(masks).items()})


def copied(tree):
    return jax.tree.map(np.copy, tree)


def assert_untouched(tree, before):
    jax.tree.map(np.testing.assert_array_equal, tree, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_redrawn_weights_have_the_signs_of_the_initial_ones(dtype):
    fresh, initial, masks = parameters(1, dtype), parameters(2, dtype), ticket(3)
    zero = tuple(np.argwhere(masks["conv"]["kernel"])[0])
    initial["conv"]["kernel"][zero], fresh["conv"]["kernel"][zero] = 0, -1
    before = copied((fresh, initial, masks))
    result = keep_signs(fresh, initial, masks)
    assert_untouched((fresh, initial, masks), before)
    flipped = 0
    for name in SHAPES:
        new, mask = result[name]["kernel"], masks[name]["kernel"]
        assert isinstance(new, np.ndarray)
        assert new.dtype == dtype
        assert not new[~mask].any()
        for place in np.argwhere(mask):
            found, drawn, old = (
                a[tuple(place)] for a in (new, fresh[name]["kernel"], initial[name]["kernel"])
            )
            assert abs(found) == abs(drawn)
            assert found == drawn if old == 0 else found * old > 0
            flipped += found != drawn
        assert result[name]["bias"] is fresh[name]["bias"]
    assert flipped > 20


@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_weights_are_the_deviation_of_the_layer_with_the_initial_signs(dtype):
    initial, masks = parameters(4, dtype), ticket(5)
    initial["conv"]["kernel"] = initial["conv"]["kernel"] * np.array(0.25, dtype)
    zero = tuple(np.argwhere(masks["conv"]["kernel"])[0])
    initial["conv"]["kernel"][zero] = 0
    before = copied((initial, masks))
    result = constant_signs(initial, masks)
    assert_untouched((initial, masks), before)
    for name in SHAPES:
        new, mask, old = result[name]["kernel"], masks[name]["kernel"], initial[name]["kernel"]
        assert new.dtype == dtype
        assert not new[~mask].any()
        # the deviation is of all initial weights, not only of those kept
        wide = old.astype(np.float64)
        deviation = np.sqrt(np.mean(np.square(wide - wide.mean())))
        np.testing.assert_allclose(
            new[mask].astype(np.float64),
            deviation * np.sign(wide[mask]),
            rtol=1e-2 if new.itemsize < 4 else 1e-6,
        )
        assert result[name]["bias"] is initial[name]["bias"]
    assert result["conv"]["kernel"][zero] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_shuffled_weights_are_the_same_in_other_places(dtype):
    params, masks = parameters(6, dtype), ticket(7)
    before = copied((params, masks))
    result = shuffle_weights(params, masks, 8)
    assert_untouched((params, masks), before)
    for name in SHAPES:
        new, mask, old = result[name]["kernel"], masks[name]["kernel"], params[name]["kernel"]
        assert new.dtype == dtype
        assert not new[~mask].any()
        assert np.sort(new[mask]).tobytes() == np.sort(old[mask]).tobytes()
        assert (new[mask] != old[mask]).mean() > 0.8
        assert result[name]["bias"] is params[name]["bias"]


def test_shuffled_masks_have_the_same_sparsity_layer_by_layer():
    masks = ticket(9)
    before = copied(masks)
    result = shuffle_masks(masks, 10)
    assert_untouched(masks, before)
    for name in SHAPES:
        new, old = result[name]["kernel"], masks[name]["kernel"]
        assert new.shape == old.shape
        assert new.dtype == bool
        assert new.sum() == old.sum()
        assert (new != old).any()
        assert result[name]["bias"] is None


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
    "shuffle", [lambda s: shuffle_masks(ticket(0), s), lambda s: shuffle_weights(parameters(0), ticket(0), s)]
)
def test_a_seed_gives_the_same_again(shuffle):
    once, again, other = shuffle(3), shuffle(np.random.default_rng(3)), shuffle(4)
    assert_untouched(once, again)
    assert (once["output"]["kernel"] != other["output"]["kernel"]).any()
    with pytest.raises(ValueError, match="seed is -1"):
        shuffle(-1)


def test_arrays_of_jax_stay_arrays_of_jax():
    fresh, initial = (jax.tree.map(jnp.asarray, parameters(seed)) for seed in (0, 1))
    masks = jax.tree.map(jnp.asarray, ticket(2))
    for result in (
        keep_signs(fresh, initial, masks),
        constant_signs(initial, masks),
        shuffle_weights(fresh, masks, 0),
    ):
        assert all(
            isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(result)
        )
    expected = keep_signs(parameters(0), parameters(1), ticket(2))
    assert_untouched(keep_signs(fresh, initial, masks), expected)
    assert_untouched(shuffle_masks(masks, 5), shuffle_masks(ticket(2), 5))


@pytest.mark.parametrize(
    "control",
    [
        keep_signs,
        lambda right, wrong, masks: keep_signs(wrong, right, masks),
        lambda right, wrong, masks: constant_signs(wrong, masks),
        lambda right, wrong, masks: shuffle_weights(wrong, masks, 0),
    ],
)
def test_parameters_of_another_shape_are_refused(control):
    right, wrong = parameters(0), parameters(0)
    wrong["output"]["kernel"] = wrong["output"]["kernel"].T
    with pytest.raises(ValueError, match="the mask of 'output/kernel' has shape"):
        control(right, wrong, ticket(0))
