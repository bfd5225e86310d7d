"""Convolutions of images that are fast on a CPU inside scans."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def conv_layer(
    channels: int,
    features: int,
    *,
    rngs: nnx.Rngs,
    kernel_init: Callable[..., jax.Array],
    kernel_size: int = 3,
    strides: int = 1,
    use_bias: bool = True,
) -> nnx.Conv:
    """A convolution with a square kernel and SAME padding, computed by `convolve`.

    Args:
        channels: of the images.
        features: channels of the result.
        rngs: its `params` stream draws the kernel.
        kernel_init: as of jax.nn.initializers, for the kernel (size, size, channels, features).
        kernel_size: its rows and columns.
        strides: pixels from one window to the next, in both directions.
        use_bias: whether to add a bias, which begins at 0.
    """
    return nnx.Conv(
        channels,
        features,
        (kernel_size, kernel_size),
        strides=(strides, strides),
        use_bias=use_bias,
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: str, **options: Any
) -> jax.Array:
    """The convolution that `conv_layer` asks for; on a CPU one matrix product.

    There the patches under the kernel are multiplied with it (im2col: Chellapilla, Puri and Simard, High
    performance convolutional neural networks for document processing, 2006), which holds as many copies of
    the images as the kernel has pixels. The gradients of XLA's own convolution lose their fast kernels in a
    scan, as training is (jax-ml/jax issue 12868): forward and backward, they take 6 to 60 times the CPU time
    of this in the layers of conv2 and conv4 at batch 60, and 6 to 16 times in those of resnet20 at batch 64.
    Outside of a scan they take 0.3 to 1.7 times as long. Other backends compute XLA's; the backend is that
    at the time of tracing.

    Args:
        images: shape (batch, height, width, channels).
        kernel: shape (rows, columns, channels, features).
        strides: of rows and of columns.
        padding: "SAME" or "VALID".
        options: further ones of jax.lax.conv_general_dilated; the product on a CPU ignores them.

    Returns:
        Shape (batch, height out, width out, features).
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)
    rows, columns, channels, features = kernel.shape
    pads = lax.padtype_to_pads(images.shape[1:3], (rows, columns), tuple(strides), padding)
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    high = (images.shape[1] - rows) // strides[0] + 1
    wide = (images.shape[2] - columns) // strides[1] + 1
    slices = [
        images[
            :, row : row + high * strides[0] : strides[0], column : column + wide * strides[1] : strides[1]
        ]
        for row in range(rows)
        for column in range(columns)
    ]
    # the kernel's rows and columns lie as the slices do, its channels as those of one slice
    return jnp.concatenate(slices, axis=3) @ kernel.reshape(rows * columns * channels, features)
