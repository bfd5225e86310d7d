"""Arrays whose values may lie far outside floating-point range: mantissa * exp(log_scale)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host


@dataclass(frozen=True, eq=False)
class Scaled:
    """An array held as value = mantissa * exp(log_scale), element by element.

    An amplitude on Z_P^D is of order P^{-D/2}: at P = 127 float64 underflows near D = 290 and complex64
    near D = 35. Every element (or every row of a batch) carries its own log-scale, so that one large
    element cannot flush the small ones to zero.

    Attributes:
        mantissa: real or complex array of any shape.
        log_scale: float64, of a shape that broadcasts to the mantissa's; natural logarithm.

    Raises:
        ValueError: the shapes do not fit together.
    """

    mantissa: Any
    log_scale: Any

    def __post_init__(self) -> None:
        xp = array_module(self.mantissa)
        mantissa = xp.asarray(self.mantissa)
        if mantissa.dtype.kind not in "fc":
            mantissa = mantissa.astype(np.float64)
        log_scale = xp.asarray(self.log_scale, dtype=xp.float64)
        # (numpy.broadcast_shapes ends at 32 axes, arrays at 64)
        extents = zip(reversed(log_scale.shape), reversed(mantissa.shape), strict=False)
        if log_scale.ndim > mantissa.ndim or any(own not in (1, whole) for own, whole in extents):
            raise ValueError(
                f"log_scale of shape {log_scale.shape} does not fit a mantissa of {mantissa.shape}"
            )
        object.__setattr__(self, "mantissa", mantissa)
        object.__setattr__(self, "log_scale", log_scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.mantissa.shape

    @property
    def ndim(self) -> int:
        """The number of axes of the values."""
        return self.mantissa.ndim

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the mantissa."""
        return self.mantissa.dtype

    def __len__(self) -> int:
        return len(self.mantissa)

    def value(self) -> Any:
        """The plain array in double precision; elements outside its range become 0 or infinity."""
        xp = array_module(self.mantissa)

        def scaled(part: Any) -> Any:
            # in two halves: exp alone may leave the range where the product with the mantissa does not
            half = xp.exp(0.5 * self.log_scale)
            return xp.where(part == 0, 0.0, part * half * half)  # a zero is a zero at any scale

        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.dtype.kind != "c":
                return scaled(self.mantissa)
            # part by part, since a complex number times infinity is NaN
            value = xp.empty(self.shape, dtype=np.complex128)
            value.real, value.imag = scaled(self.mantissa.real), scaled(self.mantissa.imag)
            return value

    def log_abs(self) -> Any:
        """Log |value|, float64; -inf where the value is 0."""
        xp = array_module(self.mantissa)
        with np.errstate(divide="ignore"):
            return xp.log(xp.abs(self.mantissa).astype(xp.float64)) + self.log_scale

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a Scaled has no plain array to share; let NumPy copy")
        return np.asarray(to_host(self.value()), dtype=dtype)

    def __getitem__(self, index: Any) -> "Scaled":
        xp = array_module(self.mantissa)
        return Scaled(self.mantissa[index], xp.broadcast_to(self.log_scale, self.shape)[index])

    def __mul__(self, other: Any) -> "Scaled":
        if isinstance(other, Scaled):
            left, right = self.rescaled(), other.rescaled()
            return Scaled(left.mantissa * right.mantissa, left.log_scale + right.log_scale)
        return Scaled(self.mantissa * other, self.log_scale)

    __rmul__ = __mul__
    # NumPy would otherwise take `array * scaled` apart element by element
    __array_ufunc__ = None

    def __truediv__(self, other: Any) -> "Scaled":
        if isinstance(other, Scaled):
            left, right = self.rescaled(), other.rescaled()
            return Scaled(left.mantissa / right.mantissa, left.log_scale - right.log_scale)
        return Scaled(self.mantissa / other, self.log_scale)

    def __add__(self, other: "Scaled") -> "Scaled":
        xp = array_module(self.mantissa)
        left, right = self.rescaled(), other.rescaled()
        # a zero has scale 0, which must not drown a sum of tiny values
        scale = xp.maximum(
            xp.where(left.mantissa == 0, -xp.inf, left.log_scale),
            xp.where(right.mantissa == 0, -xp.inf, right.log_scale),
        )
        scale = xp.where(xp.isfinite(scale), scale, 0.0)
        total = sum(
            xp.where(term.mantissa == 0, 0, term.mantissa * xp.exp(xp.minimum(term.log_scale - scale, 0.0)))
            for term in (left, right)
        )
        return Scaled(total.astype(np.result_type(self.dtype, other.dtype)), scale)

    def __neg__(self) -> "Scaled":
        return Scaled(-self.mantissa, self.log_scale)

    def __sub__(self, other: "Scaled") -> "Scaled":
        return self + (-other)

    def conj(self) -> "Scaled":
        """The complex conjugate."""
        return Scaled(self.mantissa.conj(), self.log_scale)

    def rescaled(self, axis: int | tuple[int, ...] = ()) -> "Scaled":
        """The same values with mantissas of modulus at most 1, one scale for all of `axis`.

        With the default `axis=()` every element gets a scale of its own. Where all are 0 the scale is 0.
        """
        xp = array_module(self.mantissa)
        full = xp.broadcast_to(self.log_scale, self.shape)
        log_abs = self.log_abs()
        peak = log_abs.max(axis=axis, keepdims=True) if axis != () else log_abs
        peak = xp.where(xp.isfinite(peak), peak, 0.0)
        # a zero's own scale may lie far above the peak, where exp would overflow
        shift = xp.where(self.mantissa == 0, 0.0, full - peak)
        half = xp.exp(0.5 * shift)
        return Scaled((self.mantissa * half * half).astype(self.dtype), peak)

    def sum(self, axis: int = -1) -> "Scaled":
        """The sum along one axis, taken at the scale of its largest term."""
        shared = self.rescaled(axis)
        xp = array_module(self.mantissa)
        return Scaled(shared.mantissa.sum(axis=axis), xp.squeeze(shared.log_scale, axis))
