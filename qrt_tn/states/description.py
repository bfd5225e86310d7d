"""What a state is and what drawing nodes from it will take, told before anything heavy runs."""

from dataclasses import dataclass

import numpy as np

import engine
from engine.backends import device_memory, resolve
from engine.exponents import real_bytes
from engine.plan import bytes_text
from engine.roofline import Device
from qrt_tn.states.base import State, Work, check_count


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
        nodes: how many nodes the work below draws.
        work: multiply-adds, bytes moved and peak bytes of drawing them.
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
    nodes: int
    work: Work
    seconds: float
    device: str
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether drawing the nodes fits in the memory that is free."""
        return self.free is None or self.work.memory <= self.free

    def __str__(self) -> str:
        outputs = f", {self.outputs} outputs" if self.outputs > 1 else ""
        lines = [f"{self.kind} on Z_{self.modulus}^{self.dim}{outputs}"]
        if self.bond is not None:
            lines.append(f"largest bond   {self.bond}")
        if self.held is not None:
            lines.append(f"state          {bytes_text(self.held)}")
        lines += [
            f"{self.nodes} nodes".ljust(15)
            + f"{self.work.products:.3g} real multiply-adds in {self.work.dtype}, "
            f"{bytes_text(self.work.moved)} moved",
            f"memory         {bytes_text(self.work.memory)}"
            + ("" if self.free is None else f" of {bytes_text(self.free)} free"),
            f"time           {self.seconds:.3g} s predicted on {self.device}",
        ]
        if not self.fits:
            lines.append(
                "This does not fit: draw fewer nodes at once, or hold the state with a smaller bond."
            )
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
    count = check_count(nodes, "nodes")
    active = state.modulus - 1 if harmonics is None else check_count(harmonics, "harmonics")
    found = described(state, count, active, backend)
    print(found)
    return found


def described(state: State, nodes: int, harmonics: int, backend: str) -> Description:
    """`describe` without printing, for checked arguments."""
    where = "numpy" if resolve(backend) == "numpy" else "cupy"
    device = engine.device(where)
    work = state._drawing(nodes, harmonics)
    bonds = getattr(state, "bond_dimensions", None)
    return Description(
        kind=type(state).__name__,
        modulus=state.modulus,
        dim=state.dim,
        outputs=state.outputs,
        bond=max(bonds, default=1) if bonds is not None else None,
        held=getattr(state, "held_bytes", None),
        nodes=nodes,
        work=work,
        seconds=predicted_seconds(work, device),
        device=device.name,
        free=device_memory(where)[1],
    )


def predicted_seconds(work: Work, device: Device) -> float:
    """Seconds that work takes at the device's measured rates of matrix products and copies."""
    # the rate counts a complex multiply-add as two flops; it is four real ones
    real = 2.0 if np.dtype(work.dtype).itemsize == real_bytes(work.dtype) else 0.5
    return real * work.products / device.gemm_rate(work.dtype) + work.moved / device.copy_rate
