"""What a state is and what drawing nodes from it will take, told before anything heavy runs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt_tn import engine
from qrt_tn.engine.backends import device_memory, resolve
from qrt_tn.engine.exponents import real_bytes
from qrt_tn.engine.plan import bytes_text
from qrt_tn.engine.roofline import Device
from qrt_tn.field import check_prime
from qrt_tn.states.base import Cost, State, check_count
from qrt_tn.states.chunks import drawing_bytes, node_bytes
from qrt_tn.states.filters import checked_filter, chosen_sites
from qrt_tn.states.points import checked_values
from qrt_tn.states.smoothing import checked_tolerance, exact, landmarks_for, smoothing_cost, sums_dtype


@dataclass(frozen=True)
class Description:
    """What `describe` found; printing it gives the table.

    Attributes:
        kind: the class of the state.
        modulus: P.
        dim: D.
        outputs: C.
        bond: the largest bond dimension; None where the state has none.
        held: bytes that the state itself takes; None where it does not say.
        what: what is done, such as "1024 nodes".
        cost: its multiply-adds, bytes moved and peak bytes.
        seconds: predicted, from the measured rates of the device.
        device: its name.
        free: bytes that nothing uses now; None where the system does not say.
    """

    kind: str
    modulus: int
    dim: int
    outputs: int
    bond: int | None
    held: int | None
    what: str
    cost: Cost
    seconds: float
    device: str
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether this fits in the memory that is free."""
        return self.free is None or self.cost.memory <= self.free

    def __str__(self) -> str:
        outputs = f", {self.outputs} outputs" if self.outputs > 1 else ""
        of = "" if self.free is None else f" of {bytes_text(self.free)} free"
        rows = [
            ("largest bond", "" if self.bond is None else str(self.bond)),
            ("state", "" if self.held is None else bytes_text(self.held)),
            (
                self.what,
                f"{self.cost.products:.3g} real multiply-adds in {self.cost.dtype}, "
                f"{bytes_text(self.cost.moved)} moved",
            ),
            ("memory", bytes_text(self.cost.memory) + of),
            ("time", f"{self.seconds:.3g} s predicted on {self.device}"),
        ]
        lines = [f"{self.kind} on Z_{self.modulus}^{self.dim}{outputs}"]
        lines += [f"{name:<14} {text}" for name, text in rows if text]
        if not self.fits:
            lines.append("This does not fit: take fewer at once, or a smaller bond.")
        return "\n".join(lines)


def describe(
    state: State, nodes: int = 1024, *, harmonics: int | None = None, backend: str = "auto"
) -> Description:
    """Print the bond, memory, cost and predicted time of drawing nodes, and return them.

    Nothing is drawn. The first call on a machine measures the rates of its device, which takes seconds.

    Args:
        state: from `states.from_...`.
        nodes: how many nodes.
        harmonics: harmonics v that the ridgelet has; left out, all P - 1.
        backend: "numpy", "cupy", or "auto".

    Raises:
        ValueError: not a state, a number below 1, or a backend that is missing here.
    """
    if not isinstance(state, State):
        raise ValueError(f"describe takes a state, not {type(state).__name__}; make one with states.from_...")
    place = "numpy" if resolve(backend) == "numpy" else "cupy"
    state = state.to(place)  # as a transform moves it: another device goes another way
    count = check_count(nodes, "nodes")
    active = state.modulus - 1 if harmonics is None else check_count(harmonics, "harmonics")
    bonds = getattr(state, "bond_dimensions", None)
    drawing = replace(
        state._drawing(count, active), memory=drawing_bytes(state, count, active) + node_bytes(state, count)
    )
    return _described(
        drawing,
        place,
        kind=type(state).__name__,
        modulus=state.modulus,
        dim=state.dim,
        outputs=state.outputs,
        bond=max(bonds, default=1) if bonds is not None else None,
        held=getattr(state, "held_bytes", None),
        what=f"{count} nodes",
    )


def describe_smoothing(
    x: Any,
    y: Any,
    modulus: int,
    *,
    smoothing: Any,
    bond: int = 128,
    tolerance: float = 1e-2,
    backend: str = "auto",
) -> Description:
    """Print what `from_samples` will take to compress smoothed data, and return it; nothing is compressed.

    Args:
        x: points, as in `from_samples`; only their number and dimension count.
        y: values, as in `from_samples`.
        modulus: P.
        smoothing: as in `from_samples`, but not "auto".
        bond: the bond that the state will have, or its limit; the cost grows with its square or cube.
        tolerance: as in `from_samples`; tells how many frequencies a site keeps.
        backend: as in `from_samples`.

    Raises:
        ValueError: shapes that do not fit, a bad filter, bond or tolerance, or a backend that is missing.
    """
    points = np.shape(x)
    if len(points) != 2 or 0 in points:
        raise ValueError(f"x has shape {points}; give (M, D), at least one point")
    values = checked_values(y, points[0])
    product = checked_filter(smoothing, points[1], check_prime(modulus))
    drop = 1e-2 * checked_tolerance(tolerance) ** 2 / points[1]
    outputs = 1 if values.ndim == 1 else values.shape[1]
    count = check_count(bond, "bond")
    few = exact(*points)
    place = "numpy" if few or resolve(backend) == "numpy" else "cupy"
    sites = chosen_sites(product, drop)
    cost = smoothing_cost(
        points[0],
        points[1],
        outputs,
        count if few else landmarks_for(count),
        kept=max(len(site.support) for site in sites),
        dtype=sums_dtype(values.dtype, sites),
    )
    return _described(
        cost,
        place,
        kind="SmoothedState",
        modulus=modulus,
        dim=points[1],
        outputs=outputs,
        bond=count,
        held=None,
        what="compressing",
    )


def _described(cost: Cost, backend: str, **known: Any) -> Description:
    """Print what is known and what a cost means on a device, and return it."""
    device = engine.device(backend)
    free = device_memory(backend)[1]
    seconds = predicted_seconds(cost, device)
    found = Description(**known, cost=cost, seconds=seconds, device=device.name, free=free)
    print(found)
    return found


def predicted_seconds(cost: Cost, device: Device) -> float:
    """Seconds that a cost takes at the device's measured rates of matrix products and copies."""
    # the rate counts a complex multiply-add as two flops; it is four real ones
    real = 2.0 if np.dtype(cost.dtype).itemsize == real_bytes(cost.dtype) else 0.5
    return real * cost.products / device.gemm_rate(cost.dtype) + cost.moved / device.copy_rate
