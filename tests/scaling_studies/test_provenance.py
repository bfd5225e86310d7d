import os
import platform

import numpy as np

from qrt_tn.studies import provenance


def test_versions_are_those_that_run() -> None:
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__


def test_machine_and_commit() -> None:
    machine = provenance.machine("numpy")
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["memory_gib"] > 0
    commit = provenance.commit()
    assert commit is None or len(commit.rstrip("+")) == 40
