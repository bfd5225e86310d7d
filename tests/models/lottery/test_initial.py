"""Pruning at initialisation, against finite differences and against leaving weights out one by one."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.initial import snip_scores, synflow_masks
from qrt_tn.models.lottery.masks import counts, full_masks, is_within, layers, with_layers
from qrt_tn.models.lottery.pruning import prune_by_scores


def plain(widths, seed, bias=0.0):
    """Parameters of a network of fully connected layers, and masks of all its weights."""
    rng = np.random.default_rng(seed)
    params = {
        f"layer{i}": {
            "kernel": rng.normal(size=extents).astype(np.float32),
            "bias": bias * rng.normal(size=extents[1]).astype(np.float32),
        }
        for i, extents in enumerate(pairwise(widths))
    }
    return params, full_masks(params)


def some(masks, seed, share):
    rng = np.random.default_rng(seed)
    return with_layers(masks, {name: rng.random(mask.shape) < share for name, mask in layers(masks).items()})


def run_plain(params, x, xp=jnp):
    for i in range(len(params)):
        x = xp.maximum(x, 0) if i else x
        x = x @ params[f"layer{i}"]["kernel"] + params[f"layer{i}"]["bias"]
    return x


def run_shortcut(params, x, xp=jnp):
    """The same, with a shortcut around layer 1."""
    for i in range(len(params)):
        new = xp.maximum(x, 0) @ params[f"layer{i}"]["kernel"] + params[f"layer{i}"]["bias"]
        x = x + new if i == 1 else new
    return x


def run_recurrent(params, x):
    """What starts from a float32 state, as flax's recurrent cells do."""
    return jax.lax.scan(lambda state, now: (state + now, None), jnp.zeros(5, jnp.float32), x)[0]


def left_out(run, params, masks):
    """R, and by how much it falls when a weight is left out: w dR/dw, as R is linear in each weight."""
    kernels = {
        name: np.where(masks[name]["kernel"], np.abs(layer["kernel"]).astype(np.float64), 0)
        for name, layer in params.items()
    }
    absolute = {
        name: {"kernel": kernel, "bias": np.abs(params[name]["bias"]).astype(np.float64)}
        for name, kernel in kernels.items()
    }
    ones = np.ones((1, len(kernels["layer0"])))
    flow = run(absolute, ones, np).sum()
    falls = {name: np.zeros(kernel.shape) for name, kernel in kernels.items()}
    for name, kernel in kernels.items():
        for place in np.argwhere(kernel):
            held, kernel[tuple(place)] = kernel[tuple(place)], 0
            falls[name][tuple(place)] = flow - run(absolute, ones, np).sum()
            kernel[tuple(place)] = held
    return flow, falls


def synflow_oracle(run, params, masks, keep, rounds):
    masks = {name: entry["kernel"].copy() for name, entry in masks.items()}
    total = sum(mask.sum() for mask in masks.values())
    for k in range(1, rounds + 1):
        _, falls = left_out(run, params, {name: {"kernel": mask} for name, mask in masks.items()})
        alive = np.concatenate([falls[name][mask] for name, mask in masks.items()])
        target = int(total * keep ** (k / rounds) + 0.5)
        if target == len(alive):
            continue
        last, first = np.sort(alive)[::-1][target - 1 : target + 1]
        # were the two equal, rounding would decide and the comparison mean nothing
        assert last - first > 1e-7 * last
        masks = {name: mask & (falls[name] > (last + first) / 2) for name, mask in masks.items()}
    return masks


def kernels(masks):
    return {name: entry["kernel"] for name, entry in masks.items()}


def assert_masks(masks, expected):
    for name, mask in expected.items():
        np.testing.assert_array_equal(masks[name]["kernel"], mask, err_msg=name)
        assert masks[name]["bias"] is None


def test_snip_scores_are_the_sensitivities_to_each_connection():
    params, masks = plain((4, 6, 3), 1, bias=0.5)
    masks = some(masks, 2, 0.6)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(15, 4)), rng.normal(size=(15, 3))

    def loss(params, xp=jnp):
        return xp.square(run_plain(params, x, xp) - y).mean()

    scores = snip_scores(loss, params, masks)
    # central differences of the loss in the strength c of each connection, at c = 1
    wide = {
        name: {
            "kernel": layer["kernel"].astype(np.float64) * masks[name]["kernel"],
            "bias": layer["bias"].astype(np.float64),
        }
        for name, layer in params.items()
    }
    for name, layer in wide.items():
        expected = np.zeros(layer["kernel"].shape)
        for place in np.ndindex(expected.shape):
            held, ends = layer["kernel"][place], []
            for strength in (1 + 1e-6, 1 - 1e-6):
                layer["kernel"][place] = held * strength
                ends.append(loss(wide, np))
            layer["kernel"][place] = held
            expected[place] = abs(ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(scores[f"{name}/kernel"], expected, rtol=1e-3, atol=1e-5)
        assert not scores[f"{name}/kernel"][~masks[name]["kernel"]].any()
        assert (expected[masks[name]["kernel"]] > 1e-4).mean() > 0.8
    found = layers(prune_by_scores(scores, masks, dict.fromkeys(scores, 0.5), scope="global"))
    kept = np.concatenate([scores[name][mask] for name, mask in found.items()])
    gone = np.concatenate([scores[name][mask & ~found[name]] for name, mask in layers(masks).items()])
    assert len(kept) - len(gone) in (0, -1)
    assert kept.min() >= gone.max()


def test_snip_refuses_scores_that_are_not_finite_and_masks_that_do_not_fit():
    params, masks = plain((4, 6, 3), 1)
    with pytest.raises(ValueError, match="layer 'layer0/kernel' has a score of nan"):
        snip_scores(lambda params: jnp.sqrt(-jnp.square(params["layer0"]["kernel"]).sum()), params, masks)
    del masks["layer1"]["bias"]
    with pytest.raises(ValueError, match="the masks lack 'layer1/bias'"):
        snip_scores(lambda params: params["layer0"]["kernel"].sum(), params, masks)


def test_synflow_leaves_out_what_the_flow_misses_least():
    params, masks = plain((5, 6, 6, 4), 3, bias=0.3)
    masks = some(masks, 7, 0.8)
    found = synflow_masks(run_shortcut, params, masks, 0.4, shape=(5,), rounds=3)
    assert_masks(found, synflow_oracle(run_shortcut, params, masks, 0.4, 3))
    assert counts(found)[0] == int(0.4 * counts(masks)[0] + 0.5)
    assert is_within(found, masks)


def test_synflow_ranks_a_flow_that_leaves_float32():
    params, masks = plain((5, 6, 6, 4), 0)
    scaled = jax.tree.map(lambda leaf: jnp.asarray(leaf * np.float32(2.0) ** -60), params)
    flow = run_plain(jax.tree.map(jnp.abs, scaled), jnp.ones((1, 5))).sum()
    assert float(flow) == 0
    found = synflow_masks(run_plain, scaled, masks, 0.3, shape=(5,), rounds=6)
    assert_masks(found, synflow_oracle(run_plain, params, masks, 0.3, 6))


def test_rounds_keep_layers_that_one_round_loses():
    widths = (10, 20, 30, 5)
    params, masks = plain(widths, 3)
    # 20 * 30 of 950 weights share the flow of layer 1, so that each has little
    with pytest.raises(
        ValueError, match="'layer1/kernel' would be pruned to nothing in round 1 of 1; take more rounds"
    ):
        synflow_masks(run_plain, params, masks, 0.02, shape=(10,), rounds=1)
    found = synflow_masks(run_plain, params, masks, 0.02, shape=(10,), rounds=30)
    assert counts(found) == (19, 950)
    flow, falls = left_out(run_plain, params, found)
    assert flow > 0
    for fall in falls.values():
        assert fall.sum() == pytest.approx(flow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": "half"}, "keep is 'half'"),
        ({"keep": 0.01}, "keep is 0.01, which leaves 1 of 54 weights for 2 layers"),
        ({"rounds": 0}, "rounds is 0"),
        ({"apply": run_recurrent}, r"cannot compute in float64 on inputs of shape \(5,\) \(.*carry"),
    ],
)
def test_wrong_settings_of_synflow_are_refused(options, message):
    params, masks = plain((5, 6, 4), 0)
    with pytest.raises(ValueError, match=message):
        synflow_masks(
            **{"apply": run_plain, "params": params, "masks": masks, "keep": 0.5, "shape": (5,), **options}
        )


def test_a_flow_of_0_or_not_finite_is_refused():
    params, masks = plain((5, 6, 4), 0)
    params["layer0"]["kernel"][0, 0] = np.inf
    with pytest.raises(ValueError, match="the flow is inf in round 1"):
        synflow_masks(run_plain, params, masks, 0.5, shape=(5,), rounds=2)
    # where all is kept no flow is looked at
    assert_masks(synflow_masks(run_plain, params, masks, 1.0, shape=(5,)), kernels(masks))
    params["layer0"]["kernel"][:] = 0
    with pytest.raises(ValueError, match="the flow is 0 in round 1"):
        synflow_masks(run_plain, params, masks, 0.5, shape=(5,), rounds=2)
