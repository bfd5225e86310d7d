"""The batch scripts that are written by hand, run as they are but for their sizes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qrt_tn import studies
from qrt_tn.studies.cluster.script import SIGNALS

SCRIPTS = Path(studies.__file__).parent / "slurm"
# options that come before the script's own, so that they fit on two small nodes
SMALL = {
    "cpu": ["--cpus-per-task=2", "--mem=4G"],
    "one-gpu": ["--cpus-per-task=1", "--mem=4G"],
    "gpus-one-node-mpi": ["--ntasks=2", "--cpus-per-task=1", "--mem=4G"],
    "nodes-mpi": ["--cpus-per-task=2", "--mem=4G"],
    "array-sweep": ["--array=0-2", "--cpus-per-task=1", "--mem=2G"],
}


def test_all_scripts_are_known():
    assert {path.stem for path in SCRIPTS.glob("*.sbatch")} == set(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_scripts_share_the_handling_of_signals(name):
    text = (SCRIPTS / f"{name}.sbatch").read_text()
    assert SIGNALS in text
    assert text.endswith("finish\n")
    for option in ("--requeue", "--open-mode=append", "--signal=B:USR1@"):
        assert f"#SBATCH {option}" in text
    subprocess.run(["bash", "-n", SCRIPTS / f"{name}.sbatch"], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SCRIPTS / f"{name}.sbatch"], check=True)


def run(cluster, study, name, *, environment=None):
    """What a script prints until it has ended."""
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | (environment or {})
    output = study.store.parent / "out-%a.txt" if name == "array-sweep" else study.store.parent / "out.txt"
    command = ["sbatch", "--parsable", f"--output={output}", *SMALL[name], SCRIPTS / f"{name}.sbatch"]
    job = subprocess.run(
        [*command, study.file, "--store", study.store],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=study.store.parent,
    ).stdout.strip()

    def states():
        listed = cluster.call("squeue", "-h", "-r", "--states=all", "-j", job, "-o", "%T")
        return set(listed.split())

    cluster.until(lambda: not states() & {"PENDING", "RUNNING", "COMPLETING"}, 60, "the script has not ended")
    said = "\n".join(path.read_text() for path in sorted(study.store.parent.glob("out*.txt")))
    assert states() == {"COMPLETED"}, said
    assert "Error" not in said
    return said


def test_cpu_only(cluster, study):
    one = study(numbers=4)
    run(cluster, one, "cpu")
    assert len(one.records()) == 4


def test_one_gpu(cluster, study):
    one = study(numbers=2, gpus=1)
    assert re.search(r"GPUs: \d$", run(cluster, one, "one-gpu"), re.MULTILINE)
    assert [record["tables"]["points"][0]["gpus_seen"] for record in one.records()] == [1, 1]


def test_an_array(cluster, study):
    one = study(numbers=9)
    said = run(cluster, one, "array-sweep")
    assert len(one.records()) == 9
    for task in range(3):
        assert f"task {task} of 3" in said


def test_gpus_of_one_node_under_mpi(cluster, study):
    one = study(numbers=1, ranks=2, gpus=1)
    run(cluster, one, "gpus-one-node-mpi")
    (record,) = one.records()
    assert record["tables"]["points"][0]["ranks"] == 2
    assert record["tables"]["points"][0]["gpus_seen"] == 1  # each its own


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_nodes_under_mpi(cluster, study, launcher):
    if launcher == "srun" and "pmi2" not in cluster.call("srun", "--mpi=list"):
        pytest.skip("this SLURM has no plugin pmi2")
    one = study(numbers=2, ranks=2, cores=1)
    beside = Path(sys.executable).with_name("mpiexec")
    second = cluster.folder / "log/slurmd-n2.txt"
    before = second.read_text().count("launch task")
    chosen = {} if launcher == "srun" else {"QRT_TN_MPIEXEC": f"{beside} -n {{ranks}} -ppn 1"}
    said = run(cluster, one, "nodes-mpi", environment=chosen)
    assert f"ranks by: {'srun --mpi=pmi2' if launcher == 'srun' else beside}" in said
    assert [record["tables"]["points"][0]["ranks"] for record in one.records()] == [2, 2]
    assert second.read_text().count("launch task") > before  # ranks came to the second node too
