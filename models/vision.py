"""Image networks of the lottery ticket study of Frankle and Carbin (ICLR 2019, arXiv 1803.03635, figure 2).

In all of them the layers keep flax's names: `kernel` and `bias` of dense layers and convolutions, `scale`,
`bias`, `mean` and `var` of batch norms; the last dense layer is `output`. Kernels begin Gaussian Glorot
(truncated at two deviations, as usual), biases at 0. Networks of one architecture and setting have equal
graph definitions, whatever their seeds.

Batch norm uses the batch after `network.train()`, its running averages after `network.eval()`. They
decay by 0.9 a step, so that evaluations early in training are already of use. Dropout is on after
`train()`, off after `eval()`. A new network is in the state of `train()`.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from qrt_tn.models.convolution import conv_layer

ARCHITECTURES = ("lenet", "conv2", "conv4", "conv6", "resnet20", "vgg19")
Initializer = Callable[..., jax.Array]
BATCH_NORM_MOMENTUM = 0.9


class Lenet(nnx.Module):
    """Lenet-300-100: two dense hidden layers with ReLU.

    Args:
        image_shape: (height, width, channels), or (features,).
        outputs: the number of classes.
        rngs: its `params` stream draws the weights.
        kernel_init: draws the kernels; left out, Gaussian Glorot.

    Attributes:
        hidden: the dense layers of 300 and 100 units.
        output: the last dense layer.

    Raises:
        ValueError: extents or outputs below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
    ) -> None:
        self.image_shape = _check_shape(image_shape, "lenet", flat=True)
        outputs, init = _check_outputs(outputs), kernel_init or _glorot()
        features = int(np.prod(self.image_shape))
        first = nnx.Linear(features, 300, kernel_init=init, rngs=rngs)
        self.hidden = nnx.List([first, nnx.Linear(300, 100, kernel_init=init, rngs=rngs)])
        self.output = nnx.Linear(100, outputs, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels), or of the same flat (B, features)."""
        features = self.hidden[0].in_features
        if x.shape[1:] != (features,):
            _check_images(x, self.image_shape)
        x = x.reshape(len(x), features)
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.output(x)


class ConvNet(nnx.Module):
    """Conv-2, Conv-4 or Conv-6: pairs of 3x3 convolutions, each with a max-pool, and two dense layers of 256.

    The paper prints 1.7M weights for Conv-6; the layers it lists, which are these, make 2.26M on CIFAR-10.

    Args:
        image_shape: (height, width, channels); pools drop an odd last row or column.
        outputs: the number of classes.
        depth: 2, 4 or 6 convolutions.
        rngs: its `params` stream draws the weights; dropout draws from its `dropout` stream, or else from
            a seed that comes from `params`.
        kernel_init: draws the kernels; left out, Gaussian Glorot.
        dropout: share of the hidden dense units dropped in training.

    Attributes:
        convolutions: of 64, 64, 128, 128, 256, 256 features, as far as the depth goes.
        hidden: the dense layers of 256 units.
        output: the last dense layer.

    Raises:
        ValueError: another depth, a share outside [0, 1), outputs below 1, or an image too small for the
            pools.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        depth: int,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
        dropout: float = 0.0,
    ) -> None:
        if depth not in (2, 4, 6):
            raise ValueError(f"depth is {depth!r}; choose 2, 4 or 6 convolutions")
        if isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}; give a share from 0 to below 1")
        pools = depth // 2
        self.image_shape = _check_shape(image_shape, f"conv{depth}", least=2**pools)
        outputs, init = _check_outputs(outputs), kernel_init or _glorot()
        height, width, channels = self.image_shape
        convolutions = []
        for features in (64, 64, 128, 128, 256, 256)[:depth]:
            convolutions.append(conv_layer(channels, features, kernel_init=init, rngs=rngs))
            channels = features
        self.convolutions = nnx.List(convolutions)
        flat = (height >> pools) * (width >> pools) * channels
        first = nnx.Linear(flat, 256, kernel_init=init, rngs=rngs)
        self.hidden = nnx.List([first, nnx.Linear(256, 256, kernel_init=init, rngs=rngs)])
        self.output = nnx.Linear(256, outputs, kernel_init=init, rngs=rngs)
        # last of all, so that the weights of a seed are the same with and without dropout
        self.dropouts = nnx.List(_dropouts(dropout, 2, rngs) if dropout else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels)."""
        _check_images(x, self.image_shape)
        for index, layer in enumerate(self.convolutions):
            x = jax.nn.relu(layer(x))
            if index % 2 == 1:
                x = max_pool(x)
        x = x.reshape(len(x), -1)
        for index, dense in enumerate(self.hidden):
            x = jax.nn.relu(dense(x))
            if self.dropouts:
                x = self.dropouts[index](x)
        return self.output(x)


class NormalizedConv(nnx.Module):
    """A convolution without bias, and a batch norm.

    Args:
        channels: of the images.
        features: channels of the result.
        rngs: its `params` stream draws the kernel.
        kernel_init: draws the kernel.
        kernel_size: its rows and columns.
        strides: pixels from one window to the next.

    Attributes:
        convolution: the convolution.
        norm: the batch norm.
    """

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
        self.convolution = conv_layer(
            channels,
            features,
            kernel_size=kernel_size,
            strides=strides,
            use_bias=False,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (B, height, width, channels) to (B, height / strides, width / strides, features)."""
        return self.norm(self.convolution(x))


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, and a shortcut around them.

    Where the extents change, the shortcut is a 1x1 convolution with batch norm (option B of He et al.,
    arXiv 1512.03385).

    Args:
        channels: of the images.
        features: channels of the result.
        strides: of the first convolution and of the shortcut.
        rngs: its `params` stream draws the kernels.
        kernel_init: draws the kernels.

    Attributes:
        first: the first convolution.
        second: the second convolution.
        shortcut: the 1x1 convolution, or None where the images are added as they are.
    """

    def __init__(
        self, channels: int, features: int, strides: int, *, rngs: nnx.Rngs, kernel_init: Initializer
    ) -> None:
        self.first = NormalizedConv(channels, features, strides=strides, kernel_init=kernel_init, rngs=rngs)
        self.second = NormalizedConv(features, features, kernel_init=kernel_init, rngs=rngs)
        self.shortcut = nnx.data(None)
        if strides != 1 or channels != features:
            self.shortcut = NormalizedConv(
                channels, features, kernel_size=1, strides=strides, kernel_init=kernel_init, rngs=rngs
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (B, height, width, channels) to (B, height / strides, width / strides, features)."""
        around = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.second(jax.nn.relu(self.first(x))) + around)


class ResNet20(nnx.Module):
    """The residual network of 20 layers for CIFAR-10 (He et al., arXiv 1512.03385), the paper's "Resnet-18".

    One convolution of 16 features, three blocks each of 16, 32 and 64, a mean over the pixels, and a dense
    layer. Shortcuts between widths are 1x1 convolutions.

    Args:
        image_shape: (height, width, channels).
        outputs: the number of classes.
        rngs: its `params` stream draws the weights.
        kernel_init: draws the kernels; left out, Gaussian Glorot.

    Attributes:
        stem: the first convolution.
        blocks: the nine blocks.
        output: the last dense layer.

    Raises:
        ValueError: extents or outputs below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
    ) -> None:
        self.image_shape = _check_shape(image_shape, "resnet20")
        outputs, init = _check_outputs(outputs), kernel_init or _glorot()
        self.stem = NormalizedConv(self.image_shape[2], 16, kernel_init=init, rngs=rngs)
        blocks, channels = [], 16
        for features in (16, 32, 64):
            for index in range(3):
                strides = 2 if index == 0 and features > 16 else 1
                blocks.append(ResidualBlock(channels, features, strides, kernel_init=init, rngs=rngs))
                channels = features
        self.blocks = nnx.List(blocks)
        self.output = nnx.Linear(channels, outputs, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels)."""
        _check_images(x, self.image_shape)
        x = jax.nn.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean(axis=(1, 2)))


class VGG19(nnx.Module):
    """VGG-19 for CIFAR-10: 16 convolutions of 3x3 with batch norm, and one dense layer.

    Two of 64 features, two of 128, four of 256, four of 512 and four of 512, with a max-pool between the
    groups and a mean over the pixels at the end (after Simonyan and Zisserman, arXiv 1409.1556).

    Args:
        image_shape: (height, width, channels), at least 16 by 16 pixels.
        outputs: the number of classes.
        rngs: its `params` stream draws the weights.
        kernel_init: draws the kernels; left out, Gaussian Glorot.

    Attributes:
        convolutions: the 16 convolutions.
        output: the dense layer.

    Raises:
        ValueError: an image too small for the pools, or outputs below 1.
    """

    GROUPS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))

    def __init__(
        self,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
    ) -> None:
        self.image_shape = _check_shape(image_shape, "vgg19", least=2 ** (len(self.GROUPS) - 1))
        outputs, init = _check_outputs(outputs), kernel_init or _glorot()
        layers, channels = [], self.image_shape[2]
        for features, count in self.GROUPS:
            for _ in range(count):
                layers.append(NormalizedConv(channels, features, kernel_init=init, rngs=rngs))
                channels = features
        self.convolutions = nnx.List(layers)
        self.output = nnx.Linear(channels, outputs, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, outputs) of images x (B, height, width, channels)."""
        _check_images(x, self.image_shape)
        layers = iter(self.convolutions)
        for group, (_, count) in enumerate(self.GROUPS):
            if group > 0:
                x = max_pool(x)
            for _ in range(count):
                x = jax.nn.relu(next(layers)(x))
        return self.output(x.mean(axis=(1, 2)))


def architecture(
    name: str,
    image_shape: tuple[int, ...],
    outputs: int,
    *,
    rngs: nnx.Rngs,
    kernel_init: Initializer | None = None,
) -> nnx.Module:
    """A new network by its name.

    Args:
        name: one of ARCHITECTURES.
        image_shape: (height, width, channels).
        outputs: the number of classes.
        rngs: its `params` stream draws the weights.
        kernel_init: draws the kernels, as those of jax.nn.initializers; left out, Gaussian Glorot.

    Raises:
        ValueError: an unknown name, an image too small for the network's pools, or outputs below 1.
    """
    options: dict[str, Any] = {"rngs": rngs, "kernel_init": kernel_init}
    match name:
        case "lenet":
            return Lenet(image_shape, outputs, **options)
        case "conv2" | "conv4" | "conv6":
            return ConvNet(image_shape, outputs, depth=int(name[-1]), **options)
        case "resnet20":
            return ResNet20(image_shape, outputs, **options)
        case "vgg19":
            return VGG19(image_shape, outputs, **options)
    raise ValueError(f"unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 pixels, without an odd last row or column.

    The gradient of XLA's pooling takes ten times as long on a CPU. Where pixels tie, this one's is shared.

    Args:
        x: images, shape (B, height, width, channels).

    Returns:
        Shape (B, height // 2, width // 2, channels).
    """
    batch, height, width, channels = x.shape
    high, wide = height // 2, width // 2
    pixels = x[:, : 2 * high, : 2 * wide].reshape(batch, high, 2, wide, 2, channels)
    return pixels.max(axis=(2, 4))


def _glorot() -> Initializer:
    return jax.nn.initializers.glorot_normal()


def _dropouts(rate: float, count: int, rngs: nnx.Rngs) -> list[nnx.Dropout]:
    """Dropout layers with streams of their own."""
    if "dropout" not in rngs and "default" not in rngs:
        rngs = nnx.Rngs(dropout=rngs.params())
    return [nnx.Dropout(rate, rngs=rngs) for _ in range(count)]


def _check_shape(
    image_shape: tuple[int, ...], name: str, *, least: int = 1, flat: bool = False
) -> tuple[int, ...]:
    """The shape as a tuple of ints, of images with at least `least` rows and columns."""
    shape = tuple(image_shape) if isinstance(image_shape, tuple | list) else (image_shape,)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in shape)
    if not whole or not (len(shape) == 3 or (flat and len(shape) == 1)):
        known = "(height, width, channels)" + (", or (features,)" if flat else "")
        raise ValueError(f"image_shape is {shape}; give {known}, each at least 1")
    if min(shape[:2]) < least:
        raise ValueError(
            f"images of shape {shape} are too small for the pools of {name}; give {least}x{least} or more"
        )
    return tuple(int(n) for n in shape)


def _check_outputs(outputs: int) -> int:
    if isinstance(outputs, bool) or not isinstance(outputs, int | np.integer) or outputs < 1:
        raise ValueError(f"outputs is {outputs!r}; give the number of classes, at least 1")
    return int(outputs)


def _check_images(x: jax.Array, image_shape: tuple[int, ...]) -> None:
    if x.shape[1:] != image_shape:
        raise ValueError(
            f"x has shape {x.shape}; the network takes (batch, {', '.join(map(str, image_shape))})"
        )
