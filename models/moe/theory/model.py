"""The mixture of experts of the theory: a layer of routed ReLU experts, and its training by SGD.

    f(x) = sum_s a_s sum_{j in J_s(x)} G_js(x) sum_r relu(<w_rs, x_j>)

J_s(x) are the l tokens of largest score <w_s, x_j> (expert choice), G_js the softmax of the scores over these
l tokens, a_s = +-1 is fixed. The loss is the hinge loss; SGD moves routers and neurons.

All vectors are written in the orthonormal basis of the patterns, so that a token is the number i of its
pattern and <w, x_j> = w[i]. Nothing is lost by that: f, its gradients and the norms are the same in any
orthonormal basis, and so is the distribution of the Gaussian initial neurons.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.models.moe.theory.data import FIRST, SECOND, TheorySetting, draw


class Parameters(NamedTuple):
    """What training moves.

    Attributes:
        router: one row w_s for each expert, (k, d).
        neurons: the rows w_rs of each expert, (k, m, d).
    """

    router: jax.Array | np.ndarray
    neurons: jax.Array | np.ndarray


def signs(setting: TheorySetting) -> np.ndarray:
    """The fixed signs a_s of the experts, +1 and -1 in turn, float32 (k,)."""
    return np.where(np.arange(setting.experts) % 2 == 0, 1.0, -1.0).astype(np.float32)


def pretrained(setting: TheorySetting, rng: np.random.Generator) -> Parameters:
    """The model before fine-tuning, as its pre-training on other tasks is supposed to have left it.

    Every router has norm 1 and non-negative components on all irrelevant patterns (absolute values of
    Gaussians, so of order 1 / sqrt(d) each). That of an irrelevant expert has no component on o_1 and o_2:
    since l < n it never chooses them. A relevant expert's has in addition a component out of `alignment`
    on o_1 where a_s = +1, on o_2 where a_s = -1. Neurons are Gaussian, except that those of a relevant
    expert all have the component `neuron_scale` on its pattern: they answer it more than others
    (the mean of a rectified Gaussian is 0.4 `neuron_scale`), without which its router would turn away.

    Returns:
        Parameters as float32 NumPy arrays.
    """
    k, d = setting.experts, setting.dim
    is_relevant = np.arange(k) < setting.relevant
    own = np.where(signs(setting) > 0, FIRST, SECOND)
    router = np.abs(rng.normal(size=(k, d)))
    router[:, [FIRST, SECOND]] = 0
    aligned = np.where(is_relevant, rng.uniform(*setting.alignment, size=k), 0)
    router *= (np.sqrt(1 - aligned**2) / np.linalg.norm(router, axis=1))[:, None]
    router[np.arange(k), own] = aligned
    neurons = setting.neuron_scale * rng.normal(size=(k, setting.neurons, d))
    neurons[is_relevant, :, own[is_relevant]] = setting.neuron_scale
    return Parameters(router.astype(np.float32), neurons.astype(np.float32))


def outputs(parameters: Parameters, a: jax.Array | np.ndarray, tokens: jax.Array, chosen: int) -> jax.Array:
    """The model's outputs f(x).

    Args:
        parameters: routers and neurons.
        a: signs of the experts, (k,); 0 for an expert that is pruned with its router.
        tokens: the number of each token's pattern, (N, n).
        chosen: tokens l that each expert chooses.

    Returns:
        float32 (N,).
    """
    # each expert answers a pattern with one number, whatever the input it stands in
    answers = jax.nn.relu(parameters.neurons).sum(axis=1)
    # which tokens are chosen has no slope; what they score has
    scores = jax.lax.stop_gradient(jnp.asarray(parameters.router))[:, tokens]  # (k, N, n)
    places = jax.lax.top_k(scores, chosen)[1]
    picked = jnp.take_along_axis(jnp.broadcast_to(tokens, scores.shape), places, axis=-1)
    flat = picked.reshape(len(a), -1)
    chosen_scores, answered = (
        jnp.take_along_axis(values, flat, axis=1).reshape(picked.shape)
        for values in (parameters.router, answers)
    )
    weighted = (jax.nn.softmax(chosen_scores, axis=-1) * answered).sum(axis=-1)
    # a GPU may otherwise round the factors to fewer bits (TF32)
    return jnp.matmul(jnp.asarray(a), weighted, precision=jax.lax.Precision.HIGHEST)


def hinge_loss(
    parameters: Parameters, a: jax.Array | np.ndarray, tokens: jax.Array, labels: jax.Array, chosen: int
) -> jax.Array:
    """The mean of max(0, 1 - y f(x)) over samples: tokens (N, n), labels (N,) of +1 and -1."""
    return jax.nn.relu(1 - labels * outputs(parameters, a, tokens, chosen)).mean()


@partial(jax.jit, static_argnums=(0, 1))
def train(
    setting: TheorySetting, steps: int, parameters: Parameters, a: jax.Array, key: jax.Array
) -> tuple[Parameters, jax.Array]:
    """SGD on a fresh batch each step, in one scan.

    Args:
        setting: gives the batches and the learning rates.
        steps: how many; `setting.steps` is not used.
        parameters: where it starts.
        a: signs of the experts, (k,); those with 0 stay as they are.
        key: of jax.random.

    Returns:
        The parameters after the last step, and the loss of each batch before its step, (steps,).
    """

    def step(now: Parameters, key: jax.Array) -> tuple[Parameters, jax.Array]:
        tokens, labels = draw(setting, setting.batch_size, key)
        loss, slopes = jax.value_and_grad(hinge_loss)(now, a, tokens, labels, setting.chosen)
        router = now.router - setting.router_learning_rate * slopes.router
        neurons = now.neurons - setting.learning_rate * slopes.neurons
        return Parameters(router, neurons), loss

    start = Parameters(*map(jnp.asarray, parameters))
    after: Parameters
    after, losses = jax.lax.scan(step, start, jax.random.split(key, steps))
    return after, losses


@partial(jax.jit, static_argnums=4)
def accuracy(
    parameters: Parameters, a: jax.Array | np.ndarray, tokens: jax.Array, labels: jax.Array, chosen: int
) -> jax.Array:
    """The share of samples on the right side of 0; an output of exactly 0 is wrong."""
    return (labels * outputs(parameters, a, tokens, chosen) > 0).mean()
