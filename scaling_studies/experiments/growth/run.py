"""One point of growth: a state of one kind, built and drawn from."""

import statistics
from collections.abc import Callable, Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from qrt_tn import QuantumRidgeletTransform, Ridgelet
from qrt_tn.engine.backends import resolve
from qrt_tn.states import MPSState, SmoothedState
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.growth import makers
from qrt_tn.studies.experiments.growth.makers import Build
from qrt_tn.studies.experiments.growth.measuring import mean, measured
from qrt_tn.studies.experiments.growth.settings import Growth


def grow(settings: Growth, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Build a state and draw nodes from its transform.

    Everything runs three times: once so that nothing is loaded or compiled later, once for the memory, once
    for the times.

    Args:
        settings: which state, and how many nodes.
        seed: draws its data.
        context: of the point.

    Returns:
        The metrics that `settings.EXPERIMENT` names; what a kind of state has not is None.

    Raises:
        UnavailableError: the backend is missing here.
        RuntimeError: a log-probability that is not finite.
    """
    try:
        resolve(settings.backend)
    except ValueError as error:
        raise UnavailableError(str(error)) from error
    ridgelet = Ridgelet(settings.activation, settings.modulus)
    prepare = preparation(settings, ridgelet, seed)
    with threadpool_limits(context.cores):
        context.say("warming up")
        QuantumRidgeletTransform(prepare()(), ridgelet, settings.backend).sample(settings.nodes)
        context.say("measuring")
        found = measured(prepare, ridgelet, settings.nodes, settings.rounds, settings.backend)
    seconds = statistics.median(found.draws)
    state = found.state
    return {
        "build_seconds": found.build,
        "seconds": seconds,
        "total_seconds": found.build + seconds,
        "bytes": found.bytes,
        "mean_log_probability": mean(found.nodes.log_probability),
        "bond_reached": max(state.bond_dimensions, default=1) if isinstance(state, MPSState) else None,
        "truncation_error": state.truncation_error if isinstance(state, SmoothedState) else None,
    }


def preparation(settings: Growth, ridgelet: Ridgelet, seed: int) -> Callable[[], Build]:
    """What draws the data of a point's state, the same whenever it is called.

    Args:
        settings: which state.
        ridgelet: of its modulus.
        seed: of the data.
    """
    dim, modulus, dtype = settings.dim, settings.modulus, settings.dtype

    def prepare() -> Build:
        rng = np.random.default_rng(seed)
        match settings.kind:
            case "samples":
                return makers.samples(dim, modulus, settings.points, rng, dtype)
            case "smoothed":
                return makers.smoothed(dim, modulus, settings.points, rng, dtype, settings.backend)
            case "mps":
                return makers.mps(dim, modulus, settings.bond, rng, dtype)
            case "ridges":
                return makers.ridges(dim, settings.points, ridgelet, rng)
            case "dense":
                return makers.dense(dim, modulus, rng)

    return prepare
