import json
import signal
import subprocess
import types

import pytest

from qrt_tn.studies.benchmarks.engine import finder

INPUTS, OUTPUT, SIZES = (("i", "j"), ("j", "k")), ("i",), {"i": 2, "j": 3, "k": 4}


def answering(monkeypatch, returncode=0, out="", err=""):
    seen = {}

    def run(command, *, input, **settings):
        seen.update(json.loads(input), command=command)
        return types.SimpleNamespace(returncode=returncode, stdout=out, stderr=err)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_a_path(monkeypatch):
    seen = answering(monkeypatch, out='{"path": [[0, 1]], "seconds": 0.5, "slices": 1}\n')
    assert finder.find(INPUTS, OUTPUT, SIZES, 7.0) == ([(0, 1)], 0.5, "")
    assert seen["inputs"] == [[0, 1], [1, 2]]
    assert seen["output"] == [0]
    assert seen["shapes"] == [[2, 3], [3, 4]]
    assert seen["command"][-1] == "7.0"


def test_no_path(monkeypatch):
    answering(monkeypatch, returncode=-signal.SIGALRM)
    assert finder.find(INPUTS, OUTPUT, SIZES, 7.0) == (None, 7.0, "did not end within 7 s")
    answering(monkeypatch, returncode=1, err="Traceback\nValueError: no\n")
    assert finder.find(INPUTS, OUTPUT, SIZES, 7.0) == (None, 0.0, "ValueError: no")


def test_the_real_library():
    if not finder.is_installed():
        pytest.skip("cuquantum is not installed")
    path, _, note = finder.find(INPUTS, OUTPUT, SIZES, 30)
    assert (path, note) == ([(0, 1)], "")
