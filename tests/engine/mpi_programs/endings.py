"""Failures that no protocol can tell of: the argument names one, and the whole job must end."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from qrt_tn.engine.exponents import add
from qrt_tn.engine.mpi import abort, ending_together, reduce_slices, spread_items, world


def main(ending):
    comm = world()
    rank = comm.Get_rank()

    def contract_range(group):
        if rank == 1:
            if ending == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if ending == "exit":
                os._exit(3)
            if ending == "uncaught":
                raise KeyError("nobody catches this")
        return np.ones(()), np.array(0)

    if ending == "aborts":
        abort(comm)
        print("the end was not reached", flush=True)
    if ending == "alone" and rank == 1:
        raise KeyError("before the others could know")
    if ending == "leaves" and rank == 1:
        sys.exit("this rank leaves")
    if ending == "interrupt" and rank == 1:
        # Ctrl-C while this rank only waits for the others
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        spread_items(2, lambda item: None, comm)
    if ending == "interrupt":
        time.sleep(600)
    reduce_slices(100, contract_range, add, comm)
    print("the end was not reached", flush=True)


if __name__ == "__main__":
    # a launcher that ends the job may drop what a rank has just written to it, a file may not
    sys.stderr = Path(sys.argv[2], f"errors-{os.getpid()}").open("w", buffering=1)  # noqa: SIM115
    if sys.argv[1] == "leaves":
        with ending_together(world()):
            main(sys.argv[1])
    main(sys.argv[1])
