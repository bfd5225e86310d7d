"""What a call must not wait for: the status of a study on a login node, above all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qrt_tn.studies.config import load_study
from qrt_tn.studies.store import StudyStore

HEAVY = ("jax", "jaxlib", "flax", "quimb", "numba", "cupy", "matplotlib", "sklearn", "mpi4py")

PROGRAM = """
import json, sys
heavy = json.loads(sys.argv.pop(1))
from qrt_tn.studies import cli
try:
    cli.main()
finally:
    print(json.dumps(["imported", *[name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = tmp_path / "s.toml"
    file.write_text('name = "s"\nexperiment = "rehearsal"\n[fixed]\nseconds = 0.0\n', encoding="utf-8")
    study = load_study(file)
    store = StudyStore.make(tmp_path / "runs" / "s", study)
    store.keep(study)
    store.publish_failure({"id": study.points[0].id, "kind": "error", "reason": "no", "attempt": 1})
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["study", "status", "s.toml"],
        ["study", "status", "--json", "runs/s"],
        ["study", "list"],
        ["study", "run", "s.toml", "--no-report"],
        ["study", "run", "--help"],
    ],
    ids=" ".join,
)
def test_studies_are_looked_at_and_run_without_the_heavy_libraries(
    folder: Path, arguments: list[str]
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    # its one point has failed before, which a run tells by its exit code
    assert found.returncode == (1 if "--no-report" in arguments else 0), found.stderr
    assert json.loads(found.stderr.splitlines()[-1]) == ["imported"]
