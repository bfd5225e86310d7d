"""cuTensorNet's own path finder, in a process of its own that can be ended: some searches never end."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt_tn.engine.network import Index, Term, by_position, numbered

MEMORY = 2**36  # bytes, so that it finds a path without slices; 2**31 and more need no GPU
START = 60.0  # seconds to load the libraries


def is_installed() -> bool:
    """Whether cuQuantum is here; its finder needs no GPU."""
    return importlib.util.find_spec("cuquantum") is not None


def find(
    inputs: Sequence[Term], output: Term, sizes: dict[Index, int], limit: float
) -> tuple[list[tuple[int, ...]] | None, float, str]:
    """(path, seconds, "") of cuTensorNet's finder, or (None, seconds, why not).

    Args:
        inputs: the indices of every tensor.
        output: the indices that are kept.
        sizes: the extent of every index.
        limit: seconds that it gets, after its libraries are loaded.
    """
    names = numbered(inputs)
    body = {
        "inputs": by_position(inputs, names),
        "output": [names[index] for index in output],
        "shapes": [[sizes[index] for index in term] for term in inputs],
    }
    command = [sys.executable, "-m", __name__, str(limit)]
    request = json.dumps(body)
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=START + limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None, limit, f"did not load within {START:g} s"
    if done.returncode == -signal.SIGALRM:
        return None, limit, f"did not end within {limit:g} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return None, 0.0, last[:200]
    answer = json.loads(done.stdout.splitlines()[-1])
    return [tuple(step) for step in answer["path"]], answer["seconds"], ""


def main() -> None:
    """Read a structure from standard input, and write its path and the seconds that finding it took."""
    from cuquantum import tensornet

    body = json.load(sys.stdin)
    one = np.ones((), dtype=np.complex64)
    network: list[Any] = []
    for shape, term in zip(body["shapes"], body["inputs"], strict=True):
        network += [np.broadcast_to(one, shape), term]  # the finder looks at shapes alone
    network.append(body["output"])
    options = tensornet.NetworkOptions(memory_limit=MEMORY)
    # the signal's own action ends the process, wherever the library is
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    started = time.perf_counter()
    path, information = tensornet.contract_path(*network, options=options)
    seconds = time.perf_counter() - started
    signal.setitimer(signal.ITIMER_REAL, 0)
    steps = [[int(position) for position in step] for step in path]
    print(json.dumps({"path": steps, "seconds": seconds, "slices": int(information.num_slices)}))


if __name__ == "__main__":
    main()
