"""What building a smoothed state will take, and which of the two roads it goes."""

from qrt_tn.states.base import Work
from qrt_tn.states.smoothing.error import BLOCK
from qrt_tn.states.smoothing.prefixes import fitting_levels, held
from qrt_tn.states.smoothing.sketch import PREFIX_BYTES

MOST_POINTS = 2048  # of a Gram sweep
MOST_PAIRS = 2**28  # M^2 D of a Gram sweep: about twenty seconds on one core
FIRST_BOND = 32  # landmarks of the first sketch
CHECKS = 2048  # frequencies that estimate the error of a sketched state


def exact(points: int, dim: int) -> bool:
    """Whether so many points are compressed by the Gram sweep, whose error is exact."""
    return points <= MOST_POINTS and points**2 * dim <= MOST_PAIRS


def landmarks_for(bond: int) -> int:
    """The landmarks of a sketch that ends with such a bond: few, doubled until they are at least twice it."""
    landmarks = FIRST_BOND
    while landmarks < 2 * bond:
        landmarks *= 2
    return landmarks


def smoothing_work(
    points: int,
    dim: int,
    outputs: int,
    bond: int,
    *,
    kept: int = 3,
    single: bool = True,
    complex_values: bool = False,
) -> Work:
    """What compressing a smoothed sum of product states will take.

    Args:
        points: M distinct ones.
        dim: D.
        outputs: C.
        bond: landmarks of the last sketch (those before it take a third as much again); where the Gram sweep
            is used, the bond it ends with.
        kept: frequencies that a site keeps.
        single: whether the values are single precision.
        complex_values: whether values or filter are complex, or tau not even.
    """
    if exact(points, dim):
        pairs = float(points) ** 2
        width = kept * bond
        products = dim * (pairs * width + 2.0 * points * width**2 + 10.0 * width**3)
        matrices = held(dim, 2) + 4
        size = 16 if complex_values else 8
        return Work(
            (4 if complex_values else 1) * products,
            dim * pairs * size * 16,
            matrices * pairs * size + 6.0 * points * width * size,
            "complex128" if complex_values else "float64",
        )
    bond = min(bond, points)
    size = (4 if single else 8) * (2 if complex_values else 1)
    whole = float(points) * bond * size
    levels = fitting_levels(dim, whole, PREFIX_BYTES)
    real = 4 if complex_values else 1
    sweep = 2.0 * points * bond**2
    basis = 8.0 * kept * bond**3  # the singular value decompositions of the core and of the truncation
    checks = 2.0 * CHECKS * (points + kept * bond**2)
    # left parts multiplied `levels` times, three passes each; right and left parts gathered by value
    moved = whole * (3 * levels + 8)
    cores = float(dim) * kept * bond**2 * size
    sweeping = (held(dim, levels) + 5) * whole + cores
    # the error of what was found, at about half the bond, is estimated from a complex, canonical copy
    copies = 1 + 2 * (1 if complex_values else 2)
    checking = (1 + copies / 4) * cores + 24.0 * min(BLOCK, CHECKS // 4 * points)
    truncated = cores + 24.0 * min(BLOCK, CHECKS * points) + 16.0 * CHECKS * dim
    memory = max(sweeping, checking, truncated) + points * (dim + 16.0 * outputs)
    name = ("complex" if complex_values else "float") + str(size * 8)
    return Work(dim * (real * (sweep + basis) + checks), dim * moved, memory, name)
