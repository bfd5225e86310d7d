"""Networks trained by JAX on its device: side by side under jax.vmap against one by one."""

from functools import cache
from typing import Any

import numpy as np

from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place, UnavailableError


def training(place: Place, checks: Checks) -> None:
    """Dense networks on the device that JAX finds; it must be the GPU in a run on one."""
    import jax
    from flax import nnx

    from qrt_tn.models.dense import DenseNetwork
    from qrt_tn.models.shallow_training import train_many

    checks.tell("device", lambda: str(jax.devices()[0]))
    if place.backend != "numpy" and jax.default_backend() != "gpu":
        raise UnavailableError(f"JAX runs on {jax.default_backend()} here; install its CUDA plugin")
    rng = np.random.default_rng(0)
    count, epochs = place.size(3, 2), place.size(5, 1)
    x = rng.integers(0, 31, (count, place.size(600, 60), 20))
    y = (x[:, :, 0] > 15).astype("int32")
    data: dict[str, Any] = {"x": list(x), "y": list(y), "x_validation": list(x), "y_validation": list(y)}

    def losses(together: bool) -> np.ndarray:
        networks = [DenseNetwork(20, place.size(64, 4), 2, rngs=nnx.Rngs(seed)) for seed in range(count)]
        given = {**data, "seeds": range(count), "epochs": epochs, "loss": "cross_entropy"}
        histories = train_many(networks, **given, together=together)
        return np.array([history.validation_loss[-1] for history in histories])

    together = cache(lambda: losses(True))
    checks.near("losses, together and one by one", together, lambda: losses(False), 1e-2)
    if not place.small:
        checks.tell("the same bits twice", lambda: bool((losses(True) == together()).all()))
