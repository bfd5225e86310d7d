import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn import engine
from qrt_tn.engine import Device
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.contraction import run
from qrt_tn.studies.experiments.contraction.networks import build
from qrt_tn.studies.experiments.contraction.run import contract
from qrt_tn.studies.experiments.contraction.settings import EXPERIMENT, Contraction

MPIEXEC = Path(sys.executable).parent / "mpiexec"
needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists(), reason=f"no mpiexec beside {sys.executable}: pip install 'qrt-tn[mpi]'"
)


def steady(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if not EXPERIMENT.metrics[name].measured}


@pytest.fixture
def no_gpu() -> None:
    if engine.backends()["cupy"].available:
        pytest.skip("a GPU answers here")


@pytest.mark.parametrize("network", ["grid", "qrt-chain"])
def test_metrics_against_quimb_and_the_plan(network: str, context: Context, calibrated: Device) -> None:
    batch = 3 if network == "qrt-chain" else 1
    settings = Contraction.model_validate(
        {"network": network, "size": 4, "bond": 3, "batch": batch, "rounds": 2, "slices": 3}
    )
    found = contract(settings, 2, context)
    assert set(found) == set(EXPERIMENT.metrics)
    case = build(settings, 2)
    tensors = [qtn.Tensor(a, inds=t) for a, t in zip(case.arrays, case.inputs, strict=True)]
    result = qtn.TensorNetwork(tensors).contract(output_inds=case.output, optimize="greedy")
    whole = np.asarray(result.data if isinstance(result, qtn.Tensor) else result)
    assert found["log_abs"] == pytest.approx(np.log(np.linalg.norm(whole)), rel=1e-9)
    assert found["slice_count"] == 3
    assert found["flops"] > 0
    assert found["bytes_moved"] > sum(array.nbytes for array in case.arrays)
    assert found["seconds"] > 0
    assert found["rate"] == found["flops"] / found["seconds"]
    assert (found["peak_flops"], found["bandwidth"]) == (5e10, 4e10)
    assert found["error"] is None


def test_operations_are_those_of_the_products(context: Context, calibrated: Device) -> None:
    found = contract(Contraction(network="grid", size=2, bond=5, rounds=1), 0, context)
    # four matrices of 5 x 5: two products of matrices, and one trace of a product
    assert found["flops"] == 2 * (5**3 + 5**3 + 5**2)
    assert found["bytes_moved"] == 16 * (3 * 25 + 3 * 25 + 2 * 25 + 1)


def test_single_precision_has_its_error(context: Context, calibrated: Device) -> None:
    point = {"network": "mps-overlap", "size": 20, "bond": 8, "modulus": 2, "dtype": "complex64", "rounds": 1}
    found = contract(Contraction.model_validate(point), 1, context)
    assert 1e-8 < found["error"] < 1e-4
    double = contract(Contraction.model_validate(point | {"dtype": "complex128"}), 1, context)
    assert found["log_abs"] == pytest.approx(double["log_abs"], abs=2 * found["error"])
    assert found["log_abs"] != double["log_abs"]
    assert 2 * found["bytes_moved"] == double["bytes_moved"]
    alone = contract(Contraction.model_validate(point | {"reference": False}), 1, context)
    assert alone["error"] is None
    assert alone["log_abs"] == found["log_abs"]


def test_a_point_gives_the_same_bits_again(context: Context, calibrated: Device) -> None:
    settings = Contraction(network="regular", size=20, bond=3, slices=9, dtype="complex64", rounds=1)
    first = contract(settings, 4, context)
    assert steady(contract(settings, 4, context)) == steady(first)
    assert contract(settings, 5, context)["log_abs"] != first["log_abs"]


@pytest.mark.parametrize("backend", ["cupy", "cuquantum"])
def test_a_backend_that_is_missing(backend: str, no_gpu: None, context: Context) -> None:
    with pytest.raises(UnavailableError, match=rf"backend '{backend}' is not available: .*; "):
        contract(Contraction.model_validate({"backend": backend, "gpus": 1}), 0, context)


def test_ranks_that_are_not_there(context: Context) -> None:
    with pytest.raises(ValueError, match=r'ranks is 2 and the point runs on 1; .*\.ranks = "ranks"'):
        contract(Contraction(ranks=2, slices=2), 0, context)


@needs_mpi
def test_ranks_share_slices_and_give_the_same_bits(
    tmp_path: Path, context: Context, calibrated: Device
) -> None:
    points = [
        {"network": "regular", "size": 20, "bond": 3, "slices": 100, "dtype": "complex64"},
        {"network": "qrt-grid", "size": 2, "bond": 2, "modulus": 3, "batch": 70, "slices": 70},
    ]
    texts = [json.dumps(point | {"ranks": 2, "rounds": 2}) for point in points]
    missing = json.dumps({"backend": "cupy", "gpus": 1, "ranks": 2, "slices": 2})
    wrong = json.dumps({"ranks": 3, "slices": 3})
    few = json.dumps({"ranks": 2, "slices": 1000, "size": 2, "bond": 2})
    theirs = ("PMI", "PMIX", "HYD", "MPI", "OMPI", "PRTE", "SLURM", "PALS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment |= {"HYDRA_LAUNCHER": "fork", "OMP_NUM_THREADS": "1"}
    program = Path(__file__).parent / "two_ranks.py"
    arguments = [tmp_path, *texts, missing, wrong, few]
    done = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ranks = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda said: said["rank"])
    assert [said["rank"] for said in ranks] == [0, 1]
    for point, text in zip(points, texts, strict=True):
        alone = contract(Contraction.model_validate(point | {"rounds": 1}), 3, context)
        for said in ranks:
            assert steady(said[text]) == steady(alone)
            assert said[text]["peak_flops"] == 2e10
        assert ranks[0][text] == ranks[1][text]
    for said in ranks:
        assert said[wrong].startswith("ValueError: ranks is 3 and the point runs on 2")
        assert "slices is 1000, and the network has 16 at most" in said[few] or said["rank"] == 1
        if not engine.backends()["cupy"].available:
            assert said[missing].startswith("UnavailableError: backend 'cupy' is not available")


def test_operands_are_on_the_device(device: Any, context: Context, calibrated: Device) -> None:
    """CuPy's stand-in refuses operands of the host."""
    point = {"network": "qrt-chain", "size": 4, "bond": 3, "batch": 4, "slices": 4, "rounds": 2}
    found = contract(Contraction.model_validate(point | {"backend": "cupy", "gpus": 1}), 4, context)
    host = contract(Contraction.model_validate(point), 4, context)
    assert found["log_abs"] == pytest.approx(host["log_abs"], rel=1e-12)
    assert found["error"] < 1e-13


def test_ranks_must_not_share_a_gpu(
    device: Any, tmp_path: Path, calibrated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(pci_bus_id="0000:01:00.0"))
    monkeypatch.setattr(run, "choose_device", lambda comm: 0)
    comm = SimpleNamespace(Get_size=lambda: 2, allgather=lambda mine: [mine, mine])
    settings = Contraction(backend="cupy", gpus=1, ranks=2, slices=2)
    with pytest.raises(UnavailableError, match="2 ranks would share 1 GPUs; take nodes with a GPU for each"):
        contract(settings, 0, Context(tmp_path, comm=comm))


def test_what_another_rank_lacks(tmp_path: Path) -> None:
    comm = SimpleNamespace(Get_size=lambda: 2, allgather=lambda mine: [mine, "no GPU there; take another"])
    with pytest.raises(UnavailableError, match="no GPU there; take another"):
        contract(Contraction(ranks=2, slices=2), 0, Context(tmp_path, comm=comm))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cupy", "cuquantum"])
def test_on_a_gpu(backend: str, context: Context, calibrated: Device) -> None:
    if not engine.backends()[backend].available:
        pytest.skip(engine.backends()[backend].reason)
    point = {"network": "regular", "size": 20, "bond": 3, "dtype": "complex64", "rounds": 2}
    found = contract(Contraction.model_validate(point | {"backend": backend, "gpus": 1}), 4, context)
    assert 0 < found["error"] < 1e-4
    host = contract(Contraction.model_validate(point), 4, context)
    assert found["flops"] == host["flops"]
    if backend == "cupy":
        assert found["log_abs"] == pytest.approx(host["log_abs"], abs=1e-4)
    else:
        assert found["log_abs"] is None
