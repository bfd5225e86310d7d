"""Peak memory of reading and writing vmoe's checkpoints, over the size of their trees.

    python -m qrt_tn.studies.benchmarks.checkpoints [results.json] [--megabytes 600] [--shards 4]

The tree has the shapes of a V-MoE-B/16 (8 experts in every second block), as many blocks as fit; each array
is one chunk, as vmoe writes it on one device. Every call runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from qrt_tn.models.moe import save_vmoe_checkpoint
from qrt_tn.studies.benchmarks.record import record

HIDDEN, MLP, EXPERTS = 768, 3072, 8
LIMIT = 2.2  # times the tree: what the reader may take
_CALLS = {
    "load": "tree = load_vmoe_checkpoint(prefix)",
    "load, flax": "tree = load_vmoe_checkpoint(flax)",
    "save": "save_vmoe_checkpoint(other, tree, shards=shards)",
}
_PROGRAM = """
import json, sys, time
from qrt_tn.models.moe import load_vmoe_checkpoint, save_vmoe_checkpoint

prefix, flax, other, shards, tree = *sys.argv[1:4], int(sys.argv[4]), {}
if SAVE:
    tree = load_vmoe_checkpoint(prefix)
def memory(what):  # getrusage's peak would begin with that of the process that started this one
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what))
before = memory("VmRSS")
start = time.process_time()
CALL
seconds = time.process_time() - start
print(json.dumps({"peak_bytes": memory("VmHWM") - before, "seconds": seconds}))
"""


def make_tree(nbytes: int) -> dict[str, Any]:
    """Blocks with experts and without, of about so many bytes."""
    rng = np.random.default_rng(0)
    blocks: dict[str, Any] = {}
    held = 0
    while held < nbytes:
        shape = (EXPERTS,) if len(blocks) % 2 else ()
        leaves = {
            f"Dense_{k}": {
                "kernel": rng.standard_normal((*shape, *sizes), np.float32),
                "bias": rng.standard_normal((*shape, sizes[1]), np.float32),
            }
            for k, sizes in enumerate([(HIDDEN, MLP), (MLP, HIDDEN)])
        }
        held += sum(array.nbytes for layer in leaves.values() for array in layer.values())
        blocks[f"encoderblock_{len(blocks)}"] = {"Moe": {"Mlp": leaves}} if shape else {"Mlp": leaves}
    return {"Encoder": blocks}


def measure(megabytes: int, shards: int, calls: Sequence[str] = tuple(_CALLS)) -> list[dict[str, Any]]:
    """Rows: the peak of each call, over what the process held before it.

    Args:
        megabytes: of the tree.
        shards: number of files with data.
        calls: which of them.
    """
    from flax.serialization import to_bytes

    with TemporaryDirectory() as folder:
        prefix, flax, other = (Path(folder) / name for name in ("vmoe", "flax", "other"))
        tree = make_tree(megabytes * 10**6)
        save_vmoe_checkpoint(prefix, tree, shards=shards, max_chunk_bytes=2**30)
        flax.write_bytes(to_bytes(tree))
        size = sum(path.stat().st_size for path in Path(folder).glob("vmoe.data-*"))
        del tree
        rows = []
        for call in calls:
            program = _PROGRAM.replace("SAVE", f"{call == 'save'}").replace("CALL", _CALLS[call])
            command = [sys.executable, "-c", program, *map(str, (prefix, flax, other, shards))]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"measured": call, "bytes": size, "shards": shards, **found})
            rows[-1]["peak_over_tree"] = found["peak_bytes"] / size
        return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args(arguments)
    rows = measure(options.megabytes, options.shards)
    for row in rows:
        Console().print(
            f"{row['measured']}: {row['peak_over_tree']:.2f} times the tree of {row['bytes'] / 1e6:.0f} MB, "
            f"{row['seconds']:.2f} s",
            highlight=False,
        )
    record(options.out, "checkpoints", rows, limit=LIMIT)


if __name__ == "__main__":
    main()
