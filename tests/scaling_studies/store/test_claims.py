import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qrt_tn.studies.store import Claims
from qrt_tn.studies.store.runners import SILENT, Registration, Runner, Runners, this_runner

DIGEST = 20 * "0"
POINT, OTHER = 20 * "a", 20 * "b"


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "claims", Runners(tmp_path / "runners"))


@pytest.fixture
def mine(claims: Claims) -> Iterator[Runner]:
    """This process, registered."""
    runner = this_runner(DIGEST)
    with Registration(claims.runners, runner):
        yield runner


def put(claims: Claims, token: str, age: float = 0.0, **facts: object) -> Runner:
    """A registered runner that is not this one: of this process unless `facts` say otherwise."""
    runner = replace(this_runner(DIGEST), token=token, **facts)
    path = claims.runners.path(token)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(runner)), encoding="utf-8")
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return runner


def dead(claims: Claims, token: str = "dead") -> Runner:
    return put(claims, token, born="1")


def test_a_claim_is_one_runners_until_it_is_given_back(claims: Claims, mine: Runner) -> None:
    other = put(claims, "other")
    assert claims.held() == {}
    assert claims.take(POINT, mine)
    assert claims.take(POINT, mine)
    assert not claims.take(POINT, other)
    assert claims.take(OTHER, other)
    assert claims.held() == {POINT: mine.token, OTHER: "other"}
    claims.release(POINT, other)  # not its own
    assert not claims.take(POINT, other)
    claims.release(POINT, mine)
    claims.release(POINT, mine)
    assert claims.take(POINT, other)
    assert claims.running() == {POINT: other, OTHER: other}


def test_a_dead_runners_claim_is_taken_over_and_a_living_ones_is_not(claims: Claims, mine: Runner) -> None:
    assert claims.take(POINT, dead(claims))
    assert claims.take(OTHER, put(claims, "living"))
    assert claims.running().keys() == {OTHER}
    assert claims.take(POINT, mine)
    assert not claims.take(OTHER, mine)
    assert claims.held() == {POINT: mine.token, OTHER: "living"}
    assert [path.name for path in claims.folder.iterdir() if path.name[0] == "."] == []


def test_the_claim_of_a_runner_that_nobody_knows_is_taken_over(claims: Claims, mine: Runner) -> None:
    assert claims.take(POINT, replace(mine, token="never registered"))
    assert claims.running() == {}
    assert claims.take(POINT, mine)


@pytest.mark.parametrize(("age", "taken"), [(0.0, False), (40.0, False), (SILENT + 5, True)])
def test_on_another_machine_a_claim_falls_by_the_age_of_its_runners_file(
    claims: Claims, mine: Runner, age: float, taken: bool
) -> None:
    far = put(claims, "far", age, host="far", space="other boot/pid:[1]")
    claims.folder.mkdir()
    (claims.folder / POINT).symlink_to(far.token)
    assert claims.take(POINT, mine) == taken


def test_a_job_begun_again_takes_its_points_over_at_once(claims: Claims, mine: Runner) -> None:
    before = put(claims, "before", host="far", space="other boot/pid:[1]", job="12_3", restart=0)
    assert claims.take(POINT, before)
    assert not claims.take(POINT, mine)
    assert not claims.take(POINT, replace(mine, job="12_4", restart=1))
    assert claims.take(POINT, replace(mine, job="12_3", restart=1))


def test_the_points_of_the_dead_are_freed_and_the_dead_forgotten(claims: Claims, mine: Runner) -> None:
    claims.take(POINT, dead(claims))
    claims.take(OTHER, mine)
    claims.take(20 * "c", dead(claims, "second"))
    assert claims.release_dead([OTHER, 20 * "c"]) == 1
    assert claims.held() == {POINT: "dead", OTHER: mine.token}
    assert claims.release_dead() == 1
    assert claims.held() == {OTHER: mine.token}
    assert claims.runners.all() == [mine]
    assert claims.release_dead() == 0


def test_a_runner_that_comes_while_the_dead_are_looked_for_keeps_its_points(
    claims: Claims, mine: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.take(POINT, dead(claims))
    look = claims.held

    def held() -> dict[str, str]:
        if not claims.runners.path("late").exists():  # another runner begins at this very moment
            assert claims.take(OTHER, put(claims, "late"))
        return look()

    monkeypatch.setattr(claims, "held", held)
    claims.release_dead(beside=mine)
    assert claims.held() == {OTHER: "late"}
    assert not claims.take(OTHER, mine)


def test_one_that_took_over_first_keeps_the_point(
    claims: Claims, mine: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # between our look at a dead runner's claim and our burying it, another one took it over
    claims.take(POINT, dead(claims))
    other = put(claims, "other")
    bury = Claims._bury

    def late(self: Claims, path: Path, token: str) -> None:
        monkeypatch.setattr(Claims, "_bury", bury)
        assert claims.take(POINT, other)
        bury(self, path, token)

    monkeypatch.setattr(Claims, "_bury", late)
    assert not claims.take(POINT, mine)
    assert claims.held() == {POINT: "other"}


def test_a_third_runner_that_comes_while_a_claim_is_put_back_does_not_get_it(
    claims: Claims, mine: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as above, and a third one comes while the second's claim is out of the way
    claims.take(POINT, dead(claims))
    second, third = put(claims, "second"), put(claims, "third")
    took: dict[str, bool] = {}
    bury, rename = Claims._bury, Path.rename

    def late(self: Claims, path: Path, token: str) -> None:
        monkeypatch.setattr(Claims, "_bury", bury)
        took["second"] = claims.take(POINT, second)
        monkeypatch.setattr(Path, "rename", renamed)
        bury(self, path, token)

    def renamed(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        made = rename(path, target)
        took["third"] = claims.take(POINT, third)
        return made

    monkeypatch.setattr(Claims, "_bury", late)
    took["mine"] = claims.take(POINT, mine)
    assert sum(took.values()) <= 1, took


def test_a_claim_that_is_no_link_does_not_hang_a_runner(claims: Claims, mine: Runner) -> None:
    # a copy made without symbolic links leaves files in their place
    claims.folder.mkdir()
    (claims.folder / POINT).write_text("somebody", encoding="utf-8")
    told: list[object] = []

    def attempt() -> None:
        try:
            told.append(claims.take(POINT, mine))
        except (OSError, ValueError) as error:
            told.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(3)
    hung = thread.is_alive()
    (claims.folder / POINT).unlink(missing_ok=True)  # which lets it go on
    thread.join(3)
    assert not hung
    assert told


# Eight processes take the same points at once; each writes down which it got.
RACE = """
import json, sys
from multiprocessing import get_context
from pathlib import Path
from qrt_tn.studies.store import Claims
from qrt_tn.studies.store.runners import Registration, Runners, this_runner
folder = Path(sys.argv[1])
points = [f"{number:020x}" for number in range(200)]
def take(part, gate, over):
    runners = Runners(folder / "runners")
    claims = Claims(folder / "claims", runners)
    runner = this_runner("0" * 20)
    with Registration(runners, runner):
        gate.wait()
        mine = points[part * 25 :] + points[: part * 25] if sys.argv[2] == "shifted" else points
        got = [point for point in mine if claims.take(point, runner)]
        over.wait()
        held = claims.held()
        lost = [point for point in got if held[point] != runner.token]
        (folder / f"{part}.json").write_text(json.dumps([got, lost]))
        over.wait()
if __name__ == "__main__":
    context = get_context("fork")
    gate, over = context.Barrier(8), context.Barrier(8)
    started = [context.Process(target=take, args=(part, gate, over)) for part in range(8)]
    [one.start() for one in started]
    [one.join() for one in started]
    sys.exit(max(abs(one.exitcode) for one in started))
"""


@pytest.mark.parametrize("order", ["same", "shifted"])
@pytest.mark.parametrize("before", ["nobody", "the dead"])
def test_eight_processes_share_points_without_overlap(
    claims: Claims, tmp_path: Path, order: str, before: str
) -> None:
    points = [f"{number:020x}" for number in range(200)]
    if before == "the dead":
        gone = dead(claims)
        assert all(claims.take(point, gone) for point in points)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path), order],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    got, lost = zip(*(json.loads((tmp_path / f"{part}.json").read_text()) for part in range(8)), strict=True)
    assert sorted(point for one in got for point in one) == points
    assert all(one == [] for one in lost)


def test_what_is_no_link_is_taken_for_a_dead_claim(claims: Claims, mine: Runner) -> None:
    # a store that was copied without its links
    claims.folder.mkdir(exist_ok=True)
    (claims.folder / POINT).touch()
    assert claims.take(POINT, mine)
    assert claims.owns(POINT, mine)
