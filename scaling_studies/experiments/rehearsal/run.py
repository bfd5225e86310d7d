"""One rehearsed point: passes its time in steps, remembers how far it came, and ends as it is told to."""

import hashlib
import math
import os
import signal
import time
from collections.abc import Mapping

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.rehearsal.settings import Rehearsal


def rehearse(settings: Rehearsal, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Pass the time.

    Args:
        settings: how much of it, and how it ends.
        seed: goes into `value`.
        context: of the point.

    Raises:
        RuntimeError: the ending is "error".
        UnavailableError: the ending is "unavailable".
    """
    started = time.perf_counter()
    held = bytearray(settings.megabytes * 2**20)
    kept = context.folder / "step"
    first = int(kept.read_text()) if kept.is_file() else 0
    ranks = 1
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if context.comm is not None:
        print(f"rank {context.comm.Get_rank()} sees GPUs {shown or 'none'}", flush=True)
        ranks = int(context.comm.allreduce(1))
        first = context.comm.bcast(first)
    for step in range(first, settings.steps):
        time.sleep(settings.seconds / settings.steps)
        if settings.steps > 1 and (context.comm is None or context.comm.Get_rank() == 0):
            with atomic_path(kept) as partial:
                partial.write_text(str(step + 1))
            context.say(f"step {step + 1} of {settings.steps}")
    del held
    if settings.ending == "error":
        raise RuntimeError("this point was asked to fail")
    if settings.ending == "unavailable":
        raise UnavailableError("this point needs what no machine has; leave it out")
    if settings.ending == "exit":
        os._exit(3)
    if settings.ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    text = f"{settings.label} {settings.number} {seed}".encode()
    value = int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48
    return {
        "value": math.nan if settings.ending == "nan" else value,
        "ranks": ranks,
        "resumed": first,
        "gpus_seen": len(shown.split(",")) if shown else 0,
        "seconds_passed": time.perf_counter() - started,
    }
