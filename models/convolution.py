"""Convolutions that are quick on a CPU too, inside loops and for many networks at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

# Batches, rows, columns and channels in this order; kernels as rows, columns, channels in, channels out.
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = DIMENSIONS,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """What jax.lax.conv_general_dilated computes, as one matrix product where that is quicker.

    XLA's convolution on a CPU is many times slower inside a scan or under vmap than alone. There a plain
    convolution of images becomes a product of patches with the kernel (im2col: Chellapilla, Puri and
    Simard, High performance convolutional neural networks for document processing, 2006). It holds as
    many copies of the images as the kernel has pixels. Every other convolution, and every other backend,
    is left to XLA. The backend is that at the time of tracing.

    It takes the place of conv_general_dilated in nnx.Conv, with the arguments of that function.

    Args:
        lhs: images, shape (batch, rows, columns, channels).
        rhs: the kernel, shape (kernel rows, kernel columns, channels, features).
        window_strides: of rows and of columns.
        padding: "SAME", "VALID", or what to add before and after the rows and the columns.
        lhs_dilation: None or ones for a product.
        rhs_dilation: None or ones for a product.
        dimension_numbers: DIMENSIONS, or what lax.conv_dimension_numbers makes of it, for a product.
        feature_group_count: 1 for a product.
        batch_group_count: 1 for a product.
        precision: as in lax.
        preferred_element_type: as in lax.
        out_sharding: None for a product.

    Returns:
        Shape (batch, rows out, columns out, features).

    Raises:
        ValueError: images and kernels of other numbers of channels.
    """
    plain = (
        lhs.ndim == rhs.ndim == 4
        and all(step == 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and out_sharding is None
        and dimension_numbers is not None
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, DIMENSIONS)
    )
    if plain and jax.default_backend() == "cpu":
        return _multiply_patches(lhs, rhs, window_strides, padding, precision, preferred_element_type)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **({} if out_sharding is None else {"out_sharding": out_sharding}),
    )


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
    """A layer that computes `convolve` with a square kernel, keeping extents / strides, rounded up.

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
        padding="SAME",
        use_bias=use_bias,
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def _multiply_patches(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    precision: Any,
    dtype: Any,
) -> jax.Array:
    rows, columns, channels, features = kernel.shape
    if images.shape[3] != channels:
        raise ValueError(f"the images have {images.shape[3]} channels, the kernel takes {channels}")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], (rows, columns), tuple(strides), padding)
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height, width = images.shape[1:3]
    # a window that does not fit whole is left out
    high = max((height - rows) // strides[0] + 1, 0)
    wide = max((width - columns) // strides[1] + 1, 0)
    slices = [
        images[
            :, row : row + high * strides[0] : strides[0], column : column + wide * strides[1] : strides[1]
        ]
        for row in range(rows)
        for column in range(columns)
    ]
    patches = jnp.concatenate(slices, axis=3)
    # the kernel's rows and columns lie as the slices do, its channels as those of one slice
    flat = kernel.reshape(rows * columns * channels, features)
    return jnp.matmul(patches, flat, precision=precision, preferred_element_type=dtype)
