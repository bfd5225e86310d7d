"""Points and targets of shallow networks: what fits a network, and how well it does on them."""

from typing import Any

import numpy as np

from qrt_tn.models.shallow import ShallowNetwork


def accuracy(network: ShallowNetwork, x: Any, y: Any) -> float:
    """The share of points x (M, D) whose largest output is that of their label y (M,).

    Raises:
        ValueError: mismatched shapes, or labels that are not integers in 0 .. outputs-1.
    """
    points, labels = check_data(network, x, y, "cross_entropy")
    return float(np.mean(network.predict(points).argmax(axis=1) == labels))


def risk(network: ShallowNetwork, x: Any, targets: Any) -> float:
    """Mean over the points of the squared error |network(x) - y|^2, summed over the outputs.

    Args:
        network: the network.
        x: points, shape (M, D).
        targets: real targets, shape (M, outputs), or labels, shape (M,), that stand for unit vectors.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    points, y = check_data(network, x, targets, "mse")
    wanted = np.eye(network.outputs)[y] if y.ndim == 1 else y
    return float(np.square(network.predict(points) - wanted).sum(axis=1).mean())


def check_data(
    network: ShallowNetwork, x: Any, y: Any, loss: str, part: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, D) in float32, and labels (M,) in int32 or targets (M, outputs) in float32."""
    points, targets = network.check_points(x), np.asarray(y)
    if len(targets) != len(points):
        raise ValueError(f"{len(points)} {part}points but {len(targets)} {part}targets; give one a point")
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        if targets.min() < 0 or targets.max() >= network.outputs:
            wrong = targets.min() if targets.min() < 0 else targets.max()
            raise ValueError(
                f"{part}label {wrong} is outside 0..{network.outputs - 1}, the network's outputs"
            )
        return points, targets.astype(np.int32)
    if loss == "cross_entropy":
        raise ValueError(
            f"{part}targets have shape {targets.shape}, {targets.dtype}; this needs integer labels (points,)"
        )
    if targets.shape != (len(points), network.outputs) or targets.dtype.kind not in "biuf":
        raise ValueError(
            f"{part}targets have shape {targets.shape}, {targets.dtype}; give integer labels, or reals"
            f" of shape ({len(points)}, {network.outputs})"
        )
    if not np.isfinite(targets).all():
        raise ValueError(
            f"{part}targets hold {targets[~np.isfinite(targets)][0]}; every value must be finite"
        )
    return points, targets.astype(np.float32)
