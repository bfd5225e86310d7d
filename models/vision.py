"""Image networks of the lottery ticket study of Frankle and Carbin (ICLR 2019, arXiv 1803.03635, figure 2).

In all of them the layers keep flax's names: `kernel` and `bias` of dense layers and convolutions, `scale`,
`bias`, `mean` and `var` of batch norms; the last dense layer is `output`. Kernels begin Gaussian Glorot
(truncated at two deviations, as usual), biases at 0. Networks of one architecture and setting have equal
graph definitions, whatever their seeds.

After `network.train()`, as a network begins, batch norm uses the batch and dropout is on; after
`network.eval()` batch norm uses running averages, which decay by 0.9 a step, so that evaluations early in
training are already of use.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.shallow import check_rngs

Initializer = Callable[..., jax.Array]
BATCH_NORM_MOMENTUM = 0.9


@dataclass(frozen=True)
class PlainLayers:
    """The layers of a network without shortcuts.

    Attributes:
        groups: (features, count) of runs of 3x3 convolutions; between groups there is a max-pool.
        hidden: units of the hidden dense layers.
        normalised: whether each convolution has a batch norm instead of a bias, and the last group ends with
            a mean over the pixels instead of a max-pool.
        dropout: share of the hidden dense units dropped in training.
    """

    groups: tuple[tuple[int, int], ...] = ()
    hidden: tuple[int, ...] = ()
    normalised: bool = False
    dropout: float = 0.0

    @property
    def min_extent(self) -> int:
        """The fewest rows or columns of an image that leave a pixel after all pools."""
        return int(2 ** max(0, len(self.groups) - self.normalised))


# VGG-19 is that for CIFAR-10 (after Simonyan and Zisserman, arXiv 1409.1556). The paper prints 1.7M weights
# for Conv-6; the layers it lists, which are these, make 2.26M on CIFAR-10.
PLAIN = {
    "lenet": PlainLayers(hidden=(300, 100)),
    "conv2": PlainLayers(((64, 2),), (256, 256)),
    "conv4": PlainLayers(((64, 2), (128, 2)), (256, 256)),
    "conv6": PlainLayers(((64, 2), (128, 2), (256, 2)), (256, 256)),
    "vgg19": PlainLayers(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), normalised=True),
}
ARCHITECTURES = ("lenet", "conv2", "conv4", "conv6", "resnet20", "vgg19")


def architecture(
    name: str,
    image_shape: tuple[int, ...],
    outputs: int,
    *,
    rngs: nnx.Rngs,
    kernel_init: Initializer | None = None,
    dropout: float = 0.0,
) -> nnx.Module:
    """A new network by its name.

    Args:
        name: one of ARCHITECTURES.
        image_shape: (height, width, channels); for "lenet" also (features,).
        outputs: the number of classes.
        rngs: its `params` stream draws the weights; dropout draws from its `dropout` stream, or else from a
            seed that comes from `params`.
        kernel_init: draws the kernels, as those of jax.nn.initializers; left out, Gaussian Glorot.
        dropout: share of the hidden dense units dropped in training; "resnet20" and "vgg19" have none.

    Raises:
        ValueError: an unknown name, an image too small for the network's pools, a share of dropout out of
            range, outputs below 1, or no generator.

    Example:
        >>> network = architecture("lenet", (28, 28, 1), 10, rngs=nnx.Rngs(0))
        >>> network(jax.numpy.zeros((5, 28, 28, 1))).shape
        (5, 10)
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    check_whole("outputs", outputs)
    check_rngs(rngs)
    layers = PLAIN.get(name, PlainLayers())
    shape = tuple(image_shape) if isinstance(image_shape, tuple | list) else (image_shape,)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in shape)
    if not whole or len(shape) not in ((1, 3) if name == "lenet" else (3,)):
        known = "(height, width, channels)" + (", or (features,)" if name == "lenet" else "")
        raise ValueError(f"image_shape is {shape}; give {known}, each at least 1")
    shape, least = tuple(map(int, shape)), layers.min_extent
    if min(shape[:2]) < least:
        raise ValueError(
            f"images of shape {shape} are too small for the pools of {name}; give {least}x{least} or more"
        )
    if not (is_real(dropout) and 0 <= dropout < 1):
        raise ValueError(f"dropout is {dropout!r}; give a share from 0 to below 1")
    if dropout and not layers.hidden:
        raise ValueError(f"dropout is {dropout!r}, but {name} has no hidden dense layers; leave it out")
    init = kernel_init or jax.nn.initializers.glorot_normal()
    if name == "resnet20":
        return ResNet20(shape, int(outputs), rngs=rngs, kernel_init=init)
    layers = replace(layers, dropout=float(dropout))
    return PlainNetwork(shape, int(outputs), layers, rngs=rngs, kernel_init=init)


class PlainNetwork(nnx.Module):
    """Groups of convolutions with pools, then dense layers, with ReLU after each but the last."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        outputs: int,
        layers: PlainLayers,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer,
    ) -> None:
        self.image_shape, self.layers = image_shape, layers
        convolution = NormalizedConv if layers.normalised else partial(nnx.Conv, kernel_size=(3, 3))
        convolutions, channels = [], image_shape[-1]
        for features, count in layers.groups:
            for _ in range(count):
                convolutions.append(convolution(channels, features, kernel_init=kernel_init, rngs=rngs))
                channels = features
        self.convolutions = nnx.List(convolutions)
        pooled = [extent >> len(layers.groups) for extent in image_shape[:-1]]
        units = channels if layers.normalised else channels * int(np.prod(pooled))
        hidden = []
        for width in layers.hidden:
            hidden.append(nnx.Linear(units, width, kernel_init=kernel_init, rngs=rngs))
            units = width
        self.hidden = nnx.List(hidden)
        self.output = nnx.Linear(units, outputs, kernel_init=kernel_init, rngs=rngs)
        # last of all, so that the weights of a seed are the same with and without dropout
        if layers.dropout and "dropout" not in rngs and "default" not in rngs:
            rngs = nnx.Rngs(dropout=rngs.params())
        rates = [layers.dropout] * len(hidden) if layers.dropout else []
        self.dropouts = nnx.List([nnx.Dropout(rate, rngs=rngs) for rate in rates])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels), which may be flat for a Lenet."""
        if self.convolutions or x.shape[1:] != (np.prod(self.image_shape),):
            _check_images(x, self.image_shape)
        convolutions = iter(self.convolutions)
        for group, (_, count) in enumerate(self.layers.groups):
            x = max_pool(x) if group else x
            for _ in range(count):
                x = jax.nn.relu(next(convolutions)(x))
        if self.layers.normalised:
            x = x.mean(axis=(1, 2))
        elif self.layers.groups:
            x = max_pool(x)
        x = x.reshape(len(x), -1)
        for index, dense in enumerate(self.hidden):
            x = jax.nn.relu(dense(x))
            if self.dropouts:
                x = self.dropouts[index](x)
        return self.output(x)


class ResNet20(nnx.Module):
    """The residual network of 20 layers for CIFAR-10 (He et al., arXiv 1512.03385), the paper's "Resnet-18".

    One convolution of 16 features, three blocks each of 16, 32 and 64, a mean over the pixels, and a dense
    layer.
    """

    def __init__(
        self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs, kernel_init: Initializer
    ) -> None:
        self.image_shape = image_shape
        self.stem = NormalizedConv(image_shape[2], 16, kernel_init=kernel_init, rngs=rngs)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nnx.List(
            [ResidualBlock(*pair, kernel_init=kernel_init, rngs=rngs) for pair in pairwise(widths)]
        )
        self.output = nnx.Linear(64, outputs, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels)."""
        _check_images(x, self.image_shape)
        x = jax.nn.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean(axis=(1, 2)))


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, and a shortcut around them.

    Where the features change, the extents are halved and the shortcut is a 1x1 convolution with batch norm
    (option B of He et al., arXiv 1512.03385).
    """

    def __init__(self, channels: int, features: int, *, rngs: nnx.Rngs, kernel_init: Initializer) -> None:
        wider = channels != features
        options: dict[str, Any] = {"rngs": rngs, "kernel_init": kernel_init}
        self.first = NormalizedConv(channels, features, strides=1 + wider, **options)
        self.second = NormalizedConv(features, features, **options)
        self.shortcut = nnx.data(
            NormalizedConv(channels, features, kernel_size=1, strides=2, **options) if wider else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (B, height, width, channels) to (B, height / strides, width / strides, features)."""
        around = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.second(jax.nn.relu(self.first(x))) + around)


class NormalizedConv(nnx.Module):
    """A convolution with a square kernel, SAME padding and no bias, and a batch norm."""

    def __init__(
        self,
        channels: int,
        features: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer,
        kernel_size: int = 3,
        strides: int = 1,
    ) -> None:
        self.convolution = nnx.Conv(
            channels,
            features,
            (kernel_size, kernel_size),
            strides=strides,
            use_bias=False,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (B, height, width, channels) to (B, height / strides, width / strides, features)."""
        return self.norm(self.convolution(x))


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 pixels, (B, H // 2, W // 2, C), without an odd last row or column.

    The gradient of XLA's pooling takes six times as long on a CPU. Where pixels tie, this one's is shared.
    """
    batch, height, width, channels = x.shape
    high, wide = height // 2, width // 2
    return x[:, : 2 * high, : 2 * wide].reshape(batch, high, 2, wide, 2, channels).max(axis=(2, 4))


def _check_images(x: jax.Array, image_shape: tuple[int, ...]) -> None:
    if x.shape[1:] != image_shape:
        raise ValueError(
            f"x has shape {x.shape}; the network takes (batch, {', '.join(map(str, image_shape))})"
        )
