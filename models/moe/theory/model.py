"""The theory's task, its mixture of experts, and the training of that by SGD.

    f(x) = sum_s a_s sum_{j in J_s(x)} G_js(x) sum_r relu(<w_rs, x_j>)

J_s(x) are the l tokens of largest score <w_s, x_j> (expert choice), G_js the softmax of the scores over these
l tokens, a_s = +-1 is fixed. The loss is the hinge loss; SGD moves routers and neurons.

All vectors are written in the orthonormal basis of the patterns, so that a token is the number i of its
pattern and <w, x_j> = w[i]. f, its gradients, the norms and the law of the Gaussian initial neurons are the
same in any orthonormal basis.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qrt_tn.models.settings import settings

# the coordinates of the patterns o_1 (label +1) and o_2 (label -1), which tell the label
FIRST, SECOND = 0, 1

Array = jax.Array | np.ndarray


@settings
class TheorySetting:
    """A task, a mixture of experts for it, and its fine-tuning.

    Attributes:
        dim: the dimension d of a token, and the number of patterns: 2 that tell the label and d - 2 others.
        tokens: tokens n of an input.
        experts: experts k; they count +1 and -1 in turn.
        neurons: ReLU neurons of an expert.
        chosen: tokens l that an expert chooses, below n.
        relevant_share: share of the experts whose routers point at o_1 or o_2 before fine-tuning;
            times `experts` it is a whole number, at least 2 and below `experts`.
        alignment: least and largest <w_s, o_i> of those routers, which all have norm 1.
        neuron_scale: standard deviation of the neurons' components.
        steps: SGD steps of fine-tuning.
        batch_size: fresh samples of a step.
        learning_rate: of the neurons.
        router_learning_rate: of the routers.
        test_points: samples that accuracies are measured on.

    Raises:
        ValueError: a setting of another type, or out of its range.
    """

    dim: int = Field(default=128, ge=4)
    tokens: int = Field(default=16, ge=2)
    experts: int = Field(default=16, ge=3)
    neurons: int = Field(default=8, ge=1)
    chosen: int = Field(default=4, ge=1)
    relevant_share: float = 0.5
    alignment: tuple[float, float] = (0.3, 0.5)
    neuron_scale: float = Field(default=0.05, gt=0)
    steps: int = Field(default=100, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=0.003, gt=0)
    router_learning_rate: float = Field(default=1.0, gt=0)
    test_points: int = Field(default=1000, ge=1)

    def __post_init__(self) -> None:
        if self.chosen >= self.tokens:
            raise ValueError(
                f"chosen is {self.chosen}, but an input has {self.tokens} tokens; give fewer, or an expert"
                " would see every pattern wherever its router points"
            )
        count = self.relevant_share * self.experts
        if abs(count - round(count)) > 1e-9 or not 2 <= round(count) < self.experts:
            raise ValueError(
                f"relevant_share is {self.relevant_share}: {count:g} of {self.experts} experts; give a share"
                " that is a whole number of experts, at least 2 and not all of them"
            )
        if not 0 < self.alignment[0] <= self.alignment[1] < 1:
            raise ValueError(f"alignment is {self.alignment}; give rising numbers above 0 and below 1")

    @property
    def relevant(self) -> int:
        """How many experts are relevant: the first ones."""
        return round(self.relevant_share * self.experts)


class Parameters(NamedTuple):
    """What training moves: the routers w_s, (k, d), and the neurons w_rs, (k, m, d)."""

    router: Array
    neurons: Array


@partial(jax.jit, static_argnums=(0, 1))
def draw(setting: TheorySetting, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fresh samples: the number of each token's pattern, int32 (N, n), and the labels, float32 (N,).

    A label is +1 or -1 with equal chance. One token, at a random place, is the pattern of the label; each
    other one is drawn from the d - 2 irrelevant patterns, all equally likely, independently.
    """
    # 32 random bits a number, and their remainder: a pattern's chance is off by a share of at most d / 2^32
    bits = jax.random.bits(key, (count, setting.tokens + 2))
    is_first = bits[:, :1] % 2 == 0
    places = bits[:, 1:2] % setting.tokens
    others = SECOND + 1 + bits[:, 2:] % (setting.dim - SECOND - 1)
    patterns = jnp.where(jnp.arange(setting.tokens) == places, jnp.where(is_first, FIRST, SECOND), others)
    return patterns.astype(jnp.int32), jnp.where(is_first[:, 0], 1.0, -1.0).astype(jnp.float32)


def signs(setting: TheorySetting) -> np.ndarray:
    """The fixed signs a_s of the experts, +1 and -1 in turn, float32 (k,)."""
    return np.where(np.arange(setting.experts) % 2 == 0, 1.0, -1.0).astype(np.float32)


def pretrained(setting: TheorySetting, rng: np.random.Generator) -> Parameters:
    """The model before fine-tuning, as its pre-training on other tasks is supposed to have left it; float32.

    Every router has norm 1 and non-negative components on all irrelevant patterns (absolute values of
    Gaussians, so of order 1 / sqrt(d) each). That of an irrelevant expert has no component on o_1 and o_2:
    since l < n it never chooses them. A relevant expert's has in addition a component out of `alignment`
    on o_1 where a_s = +1, on o_2 where a_s = -1. Neurons are Gaussian, except that those of a relevant
    expert all have the component `neuron_scale` on its pattern: they answer it more than others
    (the mean of a rectified Gaussian is 0.4 `neuron_scale`), without which its router would turn away.
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


def outputs(parameters: Parameters, a: Array, tokens: jax.Array, chosen: int) -> jax.Array:
    """The model's outputs f(x), float32 (N,), for tokens (N, n); signs a (k,) are 0 for pruned experts."""
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
    parameters: Parameters, a: Array, tokens: jax.Array, labels: jax.Array, chosen: int
) -> jax.Array:
    """The mean of max(0, 1 - y f(x)) over samples: tokens (N, n), labels (N,) of +1 and -1."""
    return jax.nn.relu(1 - labels * outputs(parameters, a, tokens, chosen)).mean()


@partial(jax.jit, static_argnums=(0, 1))
def train(
    setting: TheorySetting, steps: int, parameters: Parameters, a: jax.Array, key: jax.Array
) -> Parameters:
    """The parameters after so many SGD steps, each on a fresh batch; experts of sign 0 stay as they are."""

    def step(now: Parameters, key: jax.Array) -> tuple[Parameters, None]:
        tokens, labels = draw(setting, setting.batch_size, key)
        slopes = jax.grad(hinge_loss)(now, a, tokens, labels, setting.chosen)
        router = now.router - setting.router_learning_rate * slopes.router
        return Parameters(router, now.neurons - setting.learning_rate * slopes.neurons), None

    start = Parameters(*map(jnp.asarray, parameters))
    after: Parameters = jax.lax.scan(step, start, jax.random.split(key, steps))[0]
    return after


@partial(jax.jit, static_argnums=4)
def accuracy(
    parameters: Parameters, a: Array, tokens: jax.Array, labels: jax.Array, chosen: int
) -> jax.Array:
    """The share of samples on the right side of 0; an output of exactly 0 is wrong."""
    return (labels * outputs(parameters, a, tokens, chosen) > 0).mean()
