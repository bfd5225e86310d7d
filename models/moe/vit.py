"""A vision transformer with blocks of experts, after google-research/vmoe (vmoe/nn/vit_moe.py)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.layers import Mlp, MoeLayer, Observation
from qrt_tn.models.shallow import check_rngs

EPSILON = 1e-6  # of the layer norms, as in flax.linen


class EncoderBlock(nnx.Module):
    """Attention, and an MLP or a layer of experts, each behind a layer norm and beside a residual path."""

    def __init__(self, config: VisionMoeConfig, block: int, *, dispatch: str, rngs: nnx.Rngs) -> None:
        self.norm_attention = nnx.LayerNorm(config.hidden, epsilon=EPSILON, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            config.heads,
            config.hidden,
            kernel_init=jax.nn.initializers.xavier_uniform(),
            decode=False,
            rngs=rngs,
        )
        self.norm_mlp = nnx.LayerNorm(config.hidden, epsilon=EPSILON, rngs=rngs)
        self.mlp: Mlp | MoeLayer
        if block in config.moe_layers:
            self.mlp = MoeLayer(
                config.hidden,
                config.mlp,
                config.router,
                config.expert_map(block),
                rngs=rngs,
                group=config.group,
                dispatch=dispatch,
                same=config.same_experts,
            )
        else:
            self.mlp = Mlp(config.hidden, config.mlp, rngs=rngs)

    def attend(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens (B, T, h) after the attention, and what the MLP is given of them."""
        x = x + self.attention(self.norm_attention(x))
        return x, self.norm_mlp(x)


class VisionMoe(nnx.Module):
    """A vision transformer whose MLPs are mixtures of experts in some of its blocks.

    Args:
        config: its shape.
        dispatch: how tokens are brought to experts, one of qrt_tn.models.moe.config.DISPATCHES.

    Attributes:
        patch_kernel: of the embedding, shape (patch, patch, channels, h).
        position: learnt positions, shape (1, T, h).
        class_token: shape (1, 1, h), or None.
        representation: a dense layer before the head, or None.
    """

    def __init__(self, config: VisionMoeConfig, *, rngs: nnx.Rngs, dispatch: str = "auto") -> None:
        check_rngs(rngs)
        self.config = config
        shape = (config.patch, config.patch, config.image_shape[2], config.hidden)
        self.patch_kernel = nnx.Param(jax.nn.initializers.lecun_normal()(rngs.params(), shape))
        self.patch_bias = nnx.Param(jnp.zeros(config.hidden))
        positions = jax.nn.initializers.normal(0.02)(rngs.params(), (1, config.tokens, config.hidden))
        self.position = nnx.Param(positions)
        self.class_token = nnx.data(None)
        if config.classifier == "token":
            self.class_token = nnx.Param(jnp.zeros((1, 1, config.hidden)))
        self.blocks = nnx.List(
            [EncoderBlock(config, block, dispatch=dispatch, rngs=rngs) for block in range(config.layers)]
        )
        self.norm = nnx.LayerNorm(config.hidden, epsilon=EPSILON, rngs=rngs)
        self.representation = nnx.data(None)
        if config.representation is not None:
            self.representation = nnx.Linear(config.hidden, config.representation, rngs=rngs)
        self.head = nnx.Linear(
            config.representation or config.hidden,
            config.classes,
            kernel_init=jax.nn.initializers.zeros,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Classify images (B, height, width, channels).

        Without a `key` of the routers' noise, for training, the outcome is deterministic.

        Returns:
            Logits (B, classes), and the sum of the layers' auxiliary losses.

        Raises:
            ValueError: images of another shape, or a batch that does not split into groups.
        """

        def apply(block: int, layer: MoeLayer, inside: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            return layer(inside, key=None if key is None else jax.random.fold_in(key, block))

        logits, losses = self._through(x, apply)
        return logits, sum((one["auxiliary"] for one in losses.values()), jnp.zeros(()))

    def observe(self, x: jax.Array) -> tuple[jax.Array, dict[int, Observation]]:
        """Logits without noise, and what each layer of experts did, by block."""
        return self._through(x, lambda block, layer, inside: layer.observe(inside))

    def _through(
        self, x: jax.Array, apply: Callable[[int, MoeLayer, jax.Array], tuple[jax.Array, Any]]
    ) -> tuple[jax.Array, dict[int, Any]]:
        """Logits, and by block what `apply` told of each layer of experts beside its outputs."""
        x = self.embed(x)
        told = {}
        for number, block in enumerate(self.blocks):
            x, inside = block.attend(x)
            if isinstance(block.mlp, MoeLayer):
                made, told[number] = apply(number, block.mlp, inside)
            else:
                made = block.mlp(inside)
            x = x + made
        return self.classify(x), told

    def embed(self, x: jax.Array) -> jax.Array:
        """Images to tokens (B, T, h)."""
        if x.shape[1:] != self.config.image_shape:
            raise ValueError(
                f"images of shape {x.shape[1:]} do not fit a network for {self.config.image_shape}"
            )
        height, width, channels = self.config.image_shape
        patch = self.config.patch
        # a product of whole patches: XLA's convolutions in a scan are slow on CPUs
        x = x.reshape(len(x), height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
        x = x.reshape(len(x), -1, patch * patch * channels)
        x = x @ self.patch_kernel[...].reshape(-1, self.config.hidden) + self.patch_bias[...]
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[...], (len(x), 1, self.config.hidden))
            x = jnp.concatenate([first, x], axis=1)
        return x + self.position[...]

    def classify(self, x: jax.Array) -> jax.Array:
        """Tokens (B, T, h) after the last block to logits (B, classes)."""
        x = self.norm(x)
        x = x[:, 0] if self.config.classifier == "token" else x.mean(axis=1)
        if self.representation is not None:
            x = jnp.tanh(self.representation(x))
        return self.head(x)


def expert_layers(network: VisionMoe) -> dict[int, MoeLayer]:
    """The layers of experts of a network, by block."""
    blocks: Sequence[EncoderBlock] = network.blocks
    return {number: block.mlp for number, block in enumerate(blocks) if isinstance(block.mlp, MoeLayer)}
