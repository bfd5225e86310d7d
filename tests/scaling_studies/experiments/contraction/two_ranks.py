"""One point on all ranks of this job; every rank prints its metrics as JSON."""

import json
import sys
from pathlib import Path

from qrt_tn import engine
from qrt_tn.engine.mpi import world
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.contraction.run import contract
from qrt_tn.studies.experiments.contraction.settings import Contraction


def main() -> None:
    comm = world()
    # what a device reaches is not what is asked here
    table = ((1.0, 1e9), (64.0, 1e10))
    rates = {"complex64": table, "complex128": table}
    device = engine.Device("one", "numpy", rates, table, table, 1e-6, None, {}, "2026-01-01")
    engine.calibrate = lambda *_, **__: device
    context = Context(Path(sys.argv[1]), comm=comm, say=lambda line: None)
    said = {"rank": comm.Get_rank()}
    for text in sys.argv[2:]:
        settings = Contraction.model_validate_json(text)
        try:
            said[text] = dict(contract(settings, 3, context))
        except (UnavailableError, ValueError) as error:
            said[text] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
