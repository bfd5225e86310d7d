"""One import root: what is installed leaves a user's own `engine` and `models` alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code, folder, **environment):
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the files that Git would hand over, so that no leftovers of older builds are in it."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if listed == [""]:
        pytest.skip("not a Git checkout")
    for name in filter(None, listed):
        path, copy = ROOT / name, source / name
        if path.is_symlink() or path.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                copy.symlink_to(path.readlink())
            else:
                copy.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "-w", source / "dist", source], check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_one_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qrt_tn"}
    for name in (
        "engine/plan.py",
        "models/ridge.py",
        "studies/cli/__init__.py",
        "studies/studies/nodes.toml",
        "studies/cluster/job.sbatch.j2",
    ):
        assert f"qrt_tn/{name}" in names


def test_the_wheel_works_beside_folders_of_the_same_names(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("engine", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWN = True\n")
    code = (
        "import engine, models, qrt_tn\n"
        "from qrt_tn import engine as plans, models as networks, studies, Ridgelet\n"
        "assert engine.OWN and models.OWN and plans.plan and networks.RidgeNetwork and Ridgelet\n"
        "print(qrt_tn.__file__)\n"
    )
    assert run(code, tmp_path, PYTHONPATH=str(site)).startswith(str(site))


def test_loading_the_engine_loads_no_other_floor():
    code = (
        "import sys, qrt_tn.engine\n"
        "print([name for name in sys.modules if name.startswith('qrt_tn.') and '.engine' not in name])\n"
        "import qrt_tn\n"
        "assert set(qrt_tn.__all__) <= set(dir(qrt_tn))\n"
        "assert all(getattr(qrt_tn, name) is not None for name in qrt_tn.__all__)\n"
        "assert not hasattr(qrt_tn, 'no_such_name')\n"
    )
    assert run(code, ROOT).strip() == "[]"


@pytest.mark.parametrize("folder", ["engine", "models", "scaling_studies"])
def test_a_folder_of_the_checkout_is_no_second_package(folder):
    code = (
        f"try:\n    import {folder}\nexcept ImportError as error:\n    print(error)\n"
        f"else:\n    raise SystemExit('a second copy was imported')\n"
    )
    assert "import it by that name" in run(code, ROOT)
