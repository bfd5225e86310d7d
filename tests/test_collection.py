"""The workers that share the suite must collect the same tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def collected(hash_seed):
    """Names of all tests, as a process of its own finds them."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return [line for line in found.stdout.splitlines() if "::" in line]


def test_names_of_tests_depend_on_no_clock_hash_seed_or_path():
    first, second = collected(1), collected(2)  # the second begins seconds later
    assert len(first) > 1000
    assert first == second
    assert not [name for name in first if str(ROOT) in name or str(Path.home()) in name]
