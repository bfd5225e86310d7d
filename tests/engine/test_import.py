import subprocess
import sys

HEAVY = {
    "autoray",
    "cotengra",
    "cupy",
    "flax",
    "jax",
    "mpi4py",
    "numba",
    "pandas",
    "quimb",
    "scipy",
    "sklearn",
    "tqdm",
}


def test_importing_the_engine_loads_little():
    code = "import sys, qrt_tn.engine; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "qrt_tn.engine.plan" in loaded.split()
    assert HEAVY.isdisjoint(loaded.split())
