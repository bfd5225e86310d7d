"""What this machine can give to points, and what is free of it."""

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from qrt_tn.studies.config.points import Needs


class Room:
    """The cores, GPUs and memory that points may use.

    Args:
        cores: which, by the kernel's numbers; left out, those that this process may run on.
        gpus: which, as CUDA names them; left out, those that it sees.
        memory: bytes; left out, what is free.
        nodes: machines of the SLURM job; points of several ranks may use the others' GPUs too.
        most: how many points may run beside each other at most; None for as many as fit.
    """

    def __init__(
        self,
        *,
        cores: Sequence[int] | None = None,
        gpus: Sequence[str] | None = None,
        memory: int | None = None,
        most: int | None = None,
        nodes: int | None = None,
    ) -> None:
        found = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
        # not every cluster binds a job to the cores that it was given
        given = os.environ.get("SLURM_CPUS_ON_NODE", "")
        most_cores = int(given) if cores is None and given.isdigit() else len(found)
        # two tasks on one machine had better not begin with the same core
        turn = os.getpid() % len(found) if cores is None else 0
        self.cores = (found[turn:] + found[:turn])[:most_cores]
        self._gpus = None if gpus is None else list(gpus)
        self.memory = free_memory() if memory is None else memory
        self.most = most
        self.nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) if nodes is None else nodes
        self._free_cores = list(self.cores)
        self._free_gpus: list[str] | None = None
        self._free_memory = self.memory
        self._running = 0
        self._alone = False

    @property
    def gpus(self) -> list[str]:
        """The GPUs; looked for when a point first asks."""
        if self._gpus is None:
            self._gpus = visible_gpus()
        return self._gpus

    def refusal(self, needs: Needs) -> str | None:
        """Why points of such needs can never run here; None where they can."""
        wanted = needs.gpus * needs.ranks
        nodes = self.nodes if needs.ranks > 1 else 1
        cores = needs.cores * needs.ranks
        if needs.exclusive and needs.ranks > 1 and cores > nodes * len(self.cores):
            # ranks that share cores would be drawn as scaling
            return f"{cores} cores for {needs.ranks} ranks, and here are {nodes * len(self.cores)}"
        if wanted and wanted > nodes * len(self.gpus):
            where = f"{nodes} nodes show {len(self.gpus)} each" if nodes > 1 else f"here are {len(self.gpus)}"
            return f"{wanted} GPU{'s' * (wanted > 1)}, and {where}"
        return None

    def take(self, needs: Needs) -> "Share | None":
        """A share that suffices; None where it is not free now.

        A point that wants more cores or memory than there are gets all, once nothing else runs.
        """
        cores = min(needs.cores * needs.ranks, len(self.cores))
        gpus = needs.gpus * needs.ranks
        if needs.ranks > 1 and self.nodes > 1:
            gpus = min(gpus, len(self.gpus if gpus else []))  # this node's part
        memory = min(int(needs.memory * 2**30), self.memory)
        if self._free_gpus is None and gpus:
            self._free_gpus = list(self.gpus)
        full = self.most is not None and self._running >= self.most
        if full or self._alone or (needs.exclusive and self._running):
            return None
        if cores > len(self._free_cores) or gpus > len(self._free_gpus or ()) or memory > self._free_memory:
            return None
        self._running += 1
        self._alone = needs.exclusive
        self._free_memory -= memory
        taken, self._free_cores = self._free_cores[:cores], self._free_cores[cores:]
        devices: list[str] = []
        if gpus:
            assert self._free_gpus is not None
            devices, self._free_gpus = self._free_gpus[:gpus], self._free_gpus[gpus:]
        return Share(tuple(sorted(taken)), tuple(devices), memory)

    def give_back(self, share: "Share") -> None:
        """Free a share."""
        self._running -= 1
        self._alone = False
        # in the first order: two tasks on one machine began with different cores
        self._free_cores = [core for core in self.cores if core in {*self._free_cores, *share.cores}]
        if share.gpus:
            assert self._free_gpus is not None
            self._free_gpus += share.gpus
        self._free_memory += share.memory


class Share(NamedTuple):
    """What one point was given."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    memory: int


def visible_gpus() -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them; where it is not set, the numbers of all that are here.

    The driver's devices are counted. CUDA itself is not asked: only points are to start it.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = (name.strip() for name in named.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))  # as CUDA reads it
    count = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    return [str(number) for number in range(count)]


def free_memory() -> int:
    """Bytes that this process and its children may still take: of the machine, of its group, of its job."""
    import psutil

    bounds = [int(psutil.virtual_memory().available)]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            bounds.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # "max", or no such group
    for name, count in (("SLURM_MEM_PER_NODE", "1"), ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")):
        mebibytes, each = os.environ.get(name, ""), os.environ.get(count, count)
        if mebibytes.isdigit() and each.isdigit() and int(mebibytes):
            bounds.append(int(mebibytes) * int(each) * 2**20)
    return max(min(bounds), 2**28)
