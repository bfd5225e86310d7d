"""The task of the theory: tokens out of an orthonormal set, one of which tells the label."""

from functools import partial

import jax
import jax.numpy as jnp
from pydantic import Field

from qrt_tn.models.settings import settings

# The coordinates of the class-discriminative patterns o_1 (label +1) and o_2 (label -1).
FIRST, SECOND = 0, 1


@settings
class TheorySetting:
    """A task, a mixture of experts for it, and its fine-tuning.

    Only these are meant to change with the dimension: `dim`, and `batch_size` in proportion to it (what
    `scaling` does). The proportions (orthonormal patterns, expert choice, hinge loss, two learning rates)
    are those of Chowdhury et al. (ICML 2024, arXiv 2405.16646) from memory, unverified; all default values
    are ours.

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


@partial(jax.jit, static_argnums=(0, 1))
def draw(setting: TheorySetting, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fresh samples of the task.

    A label is +1 or -1 with equal chance. One token, at a random place, is the pattern of the label; each
    other one is drawn from the d - 2 irrelevant patterns, all equally likely, independently.

    Args:
        setting: gives the dimension and the number of tokens.
        count: samples N.
        key: of jax.random.

    Returns:
        The number of each token's pattern, int32 (N, n), and the labels, float32 (N,).
    """
    # 32 random bits a number, and their remainder: a pattern's chance is off by a share of at most d / 2^32
    bits = jax.random.bits(key, (count, setting.tokens + 2))
    is_first = bits[:, :1] % 2 == 0
    places = bits[:, 1:2] % setting.tokens
    others = SECOND + 1 + bits[:, 2:] % (setting.dim - SECOND - 1)
    patterns = jnp.where(jnp.arange(setting.tokens) == places, jnp.where(is_first, FIRST, SECOND), others)
    return patterns.astype(jnp.int32), jnp.where(is_first[:, 0], 1.0, -1.0).astype(jnp.float32)
