import os
import platform
from pathlib import Path

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


def test_texts_lose_where_things_lie() -> None:
    here = provenance.__file__
    text = f'File "{here}", line 1; {np.__file__}; {Path.cwd()}/data.csv; {os.sep}; a/b'
    found = provenance.relative(text)
    assert "studies/provenance.py" in found
    assert " numpy/__init__.py; data.csv; /; a/b" in found
    assert str(Path.cwd()) not in found
