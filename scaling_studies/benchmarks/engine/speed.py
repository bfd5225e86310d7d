"""Executing one plan many times: ours, cotengra's and opt_einsum's compiled contraction, quimb in a loop."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cotengra as ctg
import numpy as np
import opt_einsum as oe

from qrt_tn import engine
from qrt_tn.engine import Device, Plan
from qrt_tn.engine.backends import to_host
from qrt_tn.engine.cost import predicted_seconds, program_slices
from qrt_tn.engine.program import Program
from qrt_tn.studies.benchmarks.engine.networks import Case, elements, per_amplitude, symbols
from qrt_tn.studies.benchmarks.timing import paired, ratios

TOLERANCE = {"complex64": 1e-3, "float32": 1e-3, "complex128": 1e-9, "float64": 1e-9}
LOOPED = 4  # elements of a batch that a loop is timed on; the others would take as long


@dataclass(frozen=True)
class Contender:
    """One way to contract.

    Attributes:
        name: what the tables call it.
        call: contracts once.
        value: what a call gave, as a NumPy array.
        share: of the whole work, where a call does only the first part of a batch.
        close: gives back what it holds.
    """

    name: str
    call: Callable[[], Any]
    value: Callable[[Any], np.ndarray]
    share: float = 1.0
    close: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Work:
    """What one call has to do at the least.

    Attributes:
        steps: how many products.
        flops: a multiply and an add are two.
        moved: bytes of all operands and results of the products.
        predicted: seconds, by the device's roofline.
    """

    steps: int
    flops: float
    moved: float
    predicted: float

    def bound(self, device: Device, dtype: str, seconds: float) -> tuple[str, float]:
        """The nearer of the two measured limits ("GEMM" or "copy"), and the share of it that is reached.

        Args:
            device: the calibration; of every table the highest rate counts.
            dtype: of the numbers.
            seconds: that one call took.
        """
        copying = max(rate for _, rate in device.copy)
        shares = {
            "GEMM": self.flops / seconds / device.gemm_rate(dtype),
            "copy": self.moved / seconds / copying,
        }
        name = max(shares, key=lambda bound: shares[bound])
        return name, shares[name]


def work_of(plan: Plan, device: Device, constants: Sequence[int] = ()) -> Work:
    """What a call of a plan's expression does, steps among constants left out.

    Args:
        plan: the plan.
        device: predicts the seconds.
        constants: tensors that are the same in every call.
    """
    program = _per_call(plan.program, constants)
    itemsize = np.dtype(plan.dtype).itemsize
    slices = program_slices(program)
    flops = moved = 0.0
    for step in program.steps:
        batch, rows, inner, columns = step.dims
        repeats = slices if step.sliced else 1
        flops += float(step.flops) * repeats
        moved += float(batch * (rows * inner + inner * columns + rows * columns)) * itemsize * repeats
    return Work(len(program.steps), flops, moved, predicted_seconds(program, plan.dtype, device))


def compare(found: Case, device: Device, *, rounds: int, constants: bool = False) -> dict[str, Any]:
    """Seconds of one contraction on the CPU, ours and others', all along the path of our plan.

    Args:
        found: the network.
        device: the calibration of NumPy.
        rounds: how often each is timed.
        constants: let all but the varying tensors be constants, for those that know such.

    Raises:
        RuntimeError: two results disagree.
    """
    plan = engine.plan(found.structure, dtype=found.dtype)
    fixed = [number for number in range(len(found.inputs)) if constants and number not in found.varying]
    given = {number: found.arrays[number] for number in fixed}
    free = [array for number, array in enumerate(found.arrays) if number not in given]
    contenders = [ours(plan, "numpy", given, free)]
    contenders += [_cotengra(found, plan, given, free), _opt_einsum(found, plan, given, free)]
    if found.varying and len(found.output) == 1:
        contenders.append(quimb_loop(found, found.count))
    seconds = timed(contenders, rounds, found.dtype)
    name = f"{found.name}, constants" if constants else found.name
    return row_of(found, name, contenders, seconds, device, work_of(plan, device, fixed))


def compare_many(found: Case, device: Device, *, rounds: int) -> dict[str, Any]:
    """Seconds of `Plan.execute_many` on a batch of amplitudes, against loops over its elements.

    Args:
        found: a case that `amplitudes` made, with nothing left open.
        device: the calibration of NumPy.
        rounds: how often each is timed.

    Raises:
        RuntimeError: two results disagree.
    """
    single, arrays, count = elements(found)
    plan = engine.plan(single.structure, dtype=found.dtype)
    batched = engine.plan(found.structure, dtype=found.dtype)
    looped = min(LOOPED, count)
    compiled = _compiled(single, plan.path, {})

    varies = [array.ndim > len(term) for array, term in zip(arrays, single.inputs, strict=True)]

    def loop() -> np.ndarray:
        made = []
        for place in range(looped):
            one = [a[place] if own else a for a, own in zip(arrays, varies, strict=True)]
            made.append(compiled(*one))
        return np.array(made)

    contenders = [
        Contender("qrt-tn", lambda: plan.execute_many(arrays, "numpy"), lambda made: made.value()),
        _cotengra(found, batched, {}, list(found.arrays)),
        Contender("cotengra, a loop", loop, np.asarray, looped / count),
        quimb_loop(found, count),
    ]
    seconds = timed(contenders, rounds, found.dtype)
    return row_of(found, f"{found.name}, execute_many", contenders, seconds, device)


def ours(plan: Plan, backend: str, constants: Mapping[int, Any], arrays: Sequence[Any]) -> Contender:
    """Our expression on a backend; "qrt-tn" alone is NumPy's."""
    expression = plan.expression(backend, constants=constants)
    name = "qrt-tn" if backend == "numpy" else f"qrt-tn {backend}"
    return Contender(
        name, lambda: expression(arrays), lambda made: to_host(made.value()), close=expression.close
    )


def quimb_loop(found: Case, count: int, to_device: Callable[[Any], Any] | None = None) -> Contender:
    """quimb, one amplitude after the other along a path found beforehand; the networks are ready too.

    Args:
        found: a case that `amplitudes` made, with nothing left open.
        count: the amplitudes of the batch.
        to_device: moves an array, where not to NumPy.
    """
    looped = min(LOOPED, count)
    make = per_amplitude(found)
    networks = [make(element) for element in range(looped)]
    path = engine.plan(networks[0], output_inds=()).path
    for network in networks if to_device else ():
        network.apply_to_arrays(to_device)

    def call() -> list[Any]:
        return [network.contract(output_inds=(), optimize=path) for network in networks]

    def value(made: list[Any]) -> np.ndarray:
        return np.array([complex(to_host(one)) for one in made])

    return Contender("quimb, a loop", call, value, looped / count)


def timed(
    contenders: Sequence[Contender],
    rounds: int,
    dtype: str,
    wait: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every contender, once all results agree with the first one's; then all close.

    Args:
        contenders: what to time.
        rounds: how often.
        dtype: what the results are accurate to.
        wait: waits for the device.

    Raises:
        RuntimeError: two results disagree.
    """
    try:
        reference = contenders[0].value(contenders[0].call())
        for contender in contenders[1:]:
            value = contender.value(contender.call())
            wanted = reference[: len(value)] if contender.share < 1 else reference
            error = np.abs(value - wanted).max() / np.abs(wanted).max()
            if not error <= TOLERANCE[dtype]:
                raise RuntimeError(f"{contender.name} and {contenders[0].name} disagree by {error:.3g}")
        return paired({contender.name: contender.call for contender in contenders}, rounds, wait=wait)
    finally:
        for contender in contenders:
            contender.close()


def row_of(
    found: Case,
    name: str,
    contenders: Sequence[Contender],
    seconds: Mapping[str, Sequence[float]],
    device: Device,
    work: Work | None = None,
) -> dict[str, Any]:
    """The first contender's row of the table, with the others against it.

    Args:
        found: the network.
        name: what the table calls it.
        contenders: ours, then the others.
        seconds: of each call, by contender, one figure a round.
        device: the calibration.
        work: what a call of ours does; None where the plan alone does not say.
    """
    first, *others = contenders
    rounds = seconds[first.name]
    middle = statistics.median(rounds)
    bound, share = work.bound(device, found.dtype, middle) if work else (None, None)
    return {
        "network": name,
        "dtype": found.dtype,
        "batch": found.count,
        "method": first.name,
        "steps": work and work.steps,
        "flops": work and work.flops,
        "moved_bytes": work and work.moved,
        "seconds": middle,
        "samples": {"seconds": list(rounds)},
        "bound": bound,
        "share": share,
        "predicted_over_measured": work and work.predicted / middle,
        "against": [_against(other, seconds[other.name], rounds) for other in others],
    }


def _against(other: Contender, seconds: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Seconds of the whole work of another contender, and their ratios to ours; rounds too."""
    every = [each / other.share for each in seconds]
    return {
        "method": other.name,
        "seconds": statistics.median(every),
        "samples": {"seconds": every},
        "ratio": ratios(every, ours),
        "timed": other.share,
    }


def _per_call(program: Program, constants: Sequence[int]) -> Program:
    fixed = set(constants)
    steps = []
    for step in program.steps:
        if step.left in fixed and step.right in fixed and not step.sliced:
            fixed.add(step.target)
        else:
            steps.append(step)
    return replace(program, steps=tuple(steps))


def _compiled(found: Case, path: Any, constants: Mapping[int, Any]) -> Callable[..., Any]:
    inputs, output, _ = symbols(found.structure)
    shapes = [array.shape for array in found.arrays]
    given = dict(constants) or None
    return ctg.array_contract_expression(
        inputs, output, shapes=shapes, optimize=path, constants=given, cache=False
    )


def _cotengra(found: Case, plan: Plan, constants: Mapping[int, Any], arrays: Sequence[Any]) -> Contender:
    compiled = _compiled(found, plan.path, constants)
    return Contender("cotengra", lambda: compiled(*arrays), np.asarray)


def _opt_einsum(found: Case, plan: Plan, constants: Mapping[int, Any], arrays: Sequence[Any]) -> Contender:
    inputs, output, _ = symbols(found.structure)
    operands = [constants.get(number, array.shape) for number, array in enumerate(found.arrays)]
    compiled = oe.contract_expression(
        f"{','.join(inputs)}->{output}", *operands, constants=list(constants), optimize=plan.path
    )
    return Contender("opt_einsum", lambda: compiled(*arrays), np.asarray)
