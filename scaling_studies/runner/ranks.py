"""One MPI rank of a point: python -m qrt_tn.studies.runner.ranks task.json, under mpiexec or srun."""

import sys
from pathlib import Path
from typing import Any

from qrt_tn.engine.mpi import ending_together, world
from qrt_tn.studies.runner.process import BEGUN, take_share
from qrt_tn.studies.runner.room import visible_gpus
from qrt_tn.studies.runner.task import Task


def main() -> None:
    """Measure one point together with the other ranks."""
    task = Task.load(Path(sys.argv[1]))
    comm = world()
    with ending_together(comm):
        if comm.Get_size() != task.ranks:
            sys.exit(f"{task.ranks} ranks were asked for, {comm.Get_size()} came: check the MPI launcher")
        if comm.Get_rank() == 0:
            (Path(task.folder) / BEGUN).touch()
        take_share(*_share(task, comm))
        from qrt_tn.studies.runner.measure import measure

        measure(task, comm)


def _share(task: Task, comm: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """This rank's own cores and GPUs; on several machines those that the launcher gave it."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local, together = node.Get_rank(), node.Get_size()
    cores = task.cores
    if together == task.ranks and len(cores) >= task.ranks:
        each = len(cores) // task.ranks
        cores = cores[local * each : (local + 1) * each]
    else:
        cores = ()
    # each machine numbers its own; a launcher gives the ranks of one each its own of them, or all to all
    gpus = tuple(visible_gpus()) if task.gpus else ()
    if set(node.allgather(gpus)) == {gpus} and len(gpus) >= together:
        each = len(gpus) // together
        gpus = gpus[local * each : (local + 1) * each]
    node.Free()
    return cores, gpus


if __name__ == "__main__":
    main()
