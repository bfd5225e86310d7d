import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qrt_tn.studies.runner import Room
from qrt_tn.studies.runner.watching import State
from qrt_tn.studies.store import DiskFullError, StudyStore
from tests.scaling_studies.runner.runs import Watch, numbers, records, run_study, study


def test_a_disk_that_fills_up_stops_a_run_and_costs_nothing_finished(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(numbers(1, 2, 3, 4))
    one = Room(cores=(0,), gpus=[], memory=2**36)
    written = 0
    sync = os.fsync

    def full(file: int) -> None:
        nonlocal written
        written += Path(f"/proc/self/fd/{file}").readlink().match("results/*/*.json")
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr("qrt_tn.studies.store.records.os.fsync", full)
        with pytest.raises(DiskFullError, match=r"is full \(No space left on device\)"):
            run_study(asked, place, room=one)
    before = {n: record["finished"] for n, record in records(place).items()}
    assert len(before) == 2
    assert StudyStore(place).failed.ids() == set()
    assert run_study(asked, place).finished == 2
    assert {n: records(place)[n]["finished"] for n in before} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill_up(disk: Path) -> Path:
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_run_goes_on_once_a_full_disk_has_room(small_disk: Path) -> None:
    place = small_disk / "store"
    asked, wider = study(numbers(1, 2)), study(numbers(1, 2, 3, 4))
    run_study(asked, place)
    before = {n: record["finished"] for n, record in records(place).items()}
    ballast = fill_up(small_disk)
    with pytest.raises(DiskFullError, match=r"the disk of .* is full .*free some space"):
        run_study(wider, place)
    assert {n: record["finished"] for n, record in records(place).items()} == before
    ballast.unlink()
    assert run_study(wider, place).finished == 2
    assert {n: records(place)[n]["finished"] for n in before} == before


def test_a_point_that_finds_the_disk_full_is_not_a_failed_one(small_disk: Path) -> None:
    place = small_disk / "store"
    asked = study(fixed="[fixed]\nseconds = 1.5\nsteps = 30\n")
    ballast: list[Path] = []

    class Filler(Watch):
        def show(self, state: State) -> None:
            if not ballast and state.running and list(place.glob("work/*/*/kept/step")):
                ballast.append(fill_up(small_disk))

    with pytest.raises(DiskFullError, match="is full"):
        run_study(asked, place, watch=Filler())
    assert StudyStore(place).failed.ids() == set()
    ballast[0].unlink()
    assert run_study(asked, place).finished == 1
