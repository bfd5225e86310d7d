import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qrt_tn.studies import cli
from qrt_tn.studies.cli import study_display
from qrt_tn.studies.config import load_study
from qrt_tn.studies.config.points import order
from qrt_tn.studies.runner.watching import Running, State
from qrt_tn.studies.store import StudyStore

HEAD = 'name = "s"\nexperiment = "rehearsal"\n'
TEXT = HEAD + "[fixed]\nseconds = 0.0\n[axes]\nnumber = [1, 2]\n[resources]\nmemory = 0.1\n"
QUICK = TEXT + "[quick]\naxes = { number = [7] }\n"
FAILING = TEXT.replace("[axes]\n", '[axes]\nending = ["well", "error", "unavailable"]\n')


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qrt_tn.studies.provenance.commit", lambda: None)
    # as wide as messages need it
    monkeypatch.setenv("COLUMNS", "200")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


class Call:
    """One call of the command line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, output and messages."""
        self.monkeypatch.setattr("sys.argv", ["qrt-tn", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = self.capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    def refused(self, *arguments: object) -> str:
        """The one line of a call that is refused."""
        code, out, err = self(*arguments)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith("qrt-tn: ")
        return line


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch, capsys)


def write(text: str = TEXT, name: str = "s.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_a_study_is_run_looked_at_and_extended(call: Call) -> None:
    file = write()
    code, out, _ = call("run", file, "--no-report")
    assert (code, out) == (0, "s: 2 points finished; results in runs/s\n")
    code, out, _ = call("status", file)
    assert code == 0
    assert "s: 2 points, 2 done, 0 failed, 0 left; in runs/s" in out
    assert call("run", file, "--no-report")[1].startswith("s: 0 points finished")
    write(TEXT.replace("[1, 2]", "[1, 2, 3]"))
    assert "3 points, 2 done, 0 failed, 1 left" in call("status", file)[1]
    assert call("run", file, "--no-report")[1].startswith("s: 1 points finished")
    # the store knows its study: the file may be gone
    Path(file).unlink()
    assert "3 points, 3 done" in call("status", "runs/s")[1]
    assert call("run", "runs/s", "--no-report")[0] == 0
    write(TEXT, "other.toml")
    assert "3 more" not in call("status", "runs/s")[1]
    assert "1 more are done" in call("status", "other.toml")[1]


def test_tasks_share_an_order_and_do_the_others_share_in_the_end(call: Call) -> None:
    file = write(TEXT.replace("[1, 2]", "[1, 2, 3]"))
    one, two, _ = ids = order(load_study(file).by_id)
    Path("order.txt").write_text(f"{one}\n{two}\n", encoding="utf-8")
    shared = ("--group", 0, "--order", "order.txt")
    assert call("run", file, *shared, "--task", "1/2")[1].startswith("s: 2 points finished;")
    assert call("run", file, *shared, "--task", "0/2")[1].startswith("s: 0 points finished;")
    assert call("run", file, "--task", "0/2", "--no-report")[1].startswith("s: 1 points finished;")
    assert StudyStore(Path("runs/s")).results.ids() == set(ids)


def test_a_quick_variant_has_a_store_of_its_own(call: Call) -> None:
    file = write(QUICK)
    code, out, _ = call("run", file, "--quick", "--no-report")
    assert (code, out) == (0, "s-quick: 1 points finished; results in runs/s-quick\n")
    assert "s-quick: 1 points, 1 done" in call("status", file, "--quick")[1]
    assert "s-quick: 1 points, 1 done" in call("status", "runs/s-quick")[1]
    assert "is no store of a study" in call.refused("status", file)
    assert "leave --store and --quick out" in call.refused("status", "runs/s-quick", "--quick")


def test_a_store_may_be_anywhere(call: Call, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    assert call("run", tmp_path / write(), "--store", place)[0] == 0
    for written in (place / "report.html", place / "study.json"):  # which go round the world
        assert str(tmp_path) not in written.read_text(encoding="utf-8")
    assert "study run s.toml --store deep/place" in (place / "report.html").read_text(encoding="utf-8")
    assert StudyStore(place).done(load_study("s.toml")) == load_study("s.toml").by_id.keys()
    assert not Path("runs").exists()


def test_failures_are_told_with_reasons_and_tried_again(call: Call) -> None:
    file = write(FAILING)
    code, out, err = call("run", file, "--no-report")
    assert code == 1
    assert (
        "s: 2 points finished, 2 failed (see qrt-tn study status runs/s), 2 cannot run on this machine" in out
    )
    assert "RuntimeError: this point was asked to fail" in err
    code, out, _ = call("status", file)
    assert code == 0
    assert "6 points, 2 done, 4 failed, 0 left" in out
    assert "failed: 2 of error: RuntimeError: this point was asked to fail" in out
    assert "failed: 2 of unavailable: this point needs what no machine has; leave it out" in out
    assert "try again: qrt-tn study retry --failed runs/s" in out
    # what failed stays so, and a command after this one is not to take it for done
    code, out, _ = call("run", file, "--no-report")
    assert (code, "2 failed before" in out) == (1, True)
    code, out, _ = call("retry", "--failed", "--kind", "unavailable", file, "--no-report")
    assert (code, "2 cannot run on this machine" in out, "failed (see" in out) == (0, True, False)
    assert call("retry", "--failed", file, "--no-report")[0] == 1
    store = StudyStore(Path("runs/s"))
    tried = [store.failed.read(point) for point in store.failures(load_study(file))]
    assert sorted((one["kind"], one["attempt"]) for one in tried if one) == [
        ("error", 2),
        ("error", 2),
        ("unavailable", 3),
        ("unavailable", 3),
    ]
    assert "unknown kind 'eror'; choose from error" in call.refused(
        "retry", "--failed", "--kind", "eror", file
    )
    assert "say what to try again: qrt-tn study retry --failed" in call.refused("retry", file)


def test_a_study_is_resumed_as_its_store_has_it(call: Call) -> None:
    file = write()
    assert call("run", file, "--no-report")[0] == 0
    write(TEXT.replace("[1, 2]", "[1, 2, 3]"))
    store = StudyStore(Path("runs/s"))
    store.results.remove(load_study(file).points[1].id)
    assert call("resume", file, "--no-report")[1].startswith("s: 1 points finished")
    store.results.remove(load_study(file).points[0].id)
    assert call("resume", "runs/s", "--no-report")[1].startswith("s: 1 points finished")
    assert len(store.results.ids()) == 2


def test_status_is_told_to_programs_too(call: Call) -> None:
    file = write()
    study = load_study(file)
    store = StudyStore.make(Path("runs/s"), study)
    store.keep(study)
    with store.lock("run"):
        told = json.loads(call("status", file, "--json")[1])
        shown = call("status", file)[1]
    expected = {"name": "s", "folder": "runs/s", "total": 2, "done": 0, "failed": 0, "left": 2, "other": 0}
    assert {name: told[name] for name in expected} == expected
    assert told["here"] == ["run"]
    assert "at work on this machine: run" in shown
    assert "resume" not in shown  # it runs
    assert "go on: qrt-tn study resume runs/s" in call("status", file)[1]


def test_a_point_is_run_alone(call: Call) -> None:
    file = write(TEXT.replace("[axes]\n", '[axes]\nending = ["well", "error"]\n'))
    well, *_, bad = (point.id for point in load_study(file).points)
    for _ in range(2):
        assert call("point", file, well[:9]) == (0, "", "")
    code, out, err = call("point", file, bad, "--store", "runs/s")
    assert (code, out) == (1, "")
    assert err == f"qrt-tn: point {bad}: error: RuntimeError: this point was asked to fail\n"
    assert "1 done, 1 failed, 2 left" in call("status", "runs/s")[1]
    assert "no points of s have an id that begins with 'x'" in call.refused("point", file, "x")
    assert "4 points of s have an id that begins with ''" in call.refused("point", file, "")


def test_following_ends_when_nothing_is_at_work(call: Call) -> None:
    file = write()
    call("run", file, "--no-report")
    code, out, _ = call("status", file, "--follow")
    assert code == 0
    assert "2 points, 2 done" in out


def test_studies_that_come_with_the_package_are_listed(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("rehearsal ")]
    assert line.split()[:4] == ["rehearsal", "rehearsal", "100", "10"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "absent.toml"], "there is no file absent.toml"),
        (["run", "rehersal"], "did you mean 'rehearsal'?"),
        (["run", "s.toml", "--quick"], "there is no quick variant"),
        (["run", "s.toml", "--processes", "0"], "processes is 0; give at least 1"),
        (["run", "s.toml", "--group", "4"], "group is 4; this study has groups 0 to 0"),
        (["run", "s.toml", "--task", "2/2"], "task is '2/2'; give i/n"),
        (["run", "s.toml", "--order", "full/thesis.tex"], "full/thesis.tex holds 'kept', no point of s"),
        (["run", "s.toml", "--store", "s.toml"], "s.toml is a file; give a folder with --store"),
        (["run", "s.toml", "--store", "s.toml/store"], "--store"),
        (["run", "s.toml", "--store", "full"], "full holds other files; give another folder with --store"),
        (["run", "full"], "full is no store of a study"),
        (["run", "s.toml", "--frobnicate"], "--frobnicate"),
        (["run", "broken.toml"], "broken.toml is not TOML: Invalid value (at line 2, column 14)"),
        (["run", "typo.toml"], "unknown key 'expermient'; did you mean 'experiment'?"),
        (["run", "needs.toml"], "no point that is left can run here: 2 need 99 GPUs"),
        (["status", "s.toml"], "runs/s is no store of a study"),
        (["resume", "s.toml"], "runs/s is no store of a study"),
        (["report", "s.toml"], "runs/s is no store of a study"),
        (["run"], "target"),
        (["stauts", "s.toml"], "No such command 'stauts'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_exit_code_two(call: Call, arguments: list[str], said: str) -> None:
    write()
    write("name = 's'\nexperiment = rehearsal\n", "broken.toml")
    write("name = 's'\nexpermient = 'rehearsal'\n", "typo.toml")
    write(TEXT + "gpus = 99\n", "needs.toml")
    Path("full").mkdir()
    write("kept", "full/thesis.tex")
    line = call.refused(*arguments)
    assert said.lower() in line.lower()
    assert Path("full/thesis.tex").read_text() == "kept"


def test_a_store_of_another_version_is_refused_by_every_command(call: Call) -> None:
    file = write()
    call("run", file, "--no-report")
    head = Path("runs/s/store.json")
    head.write_text(head.read_text().replace('"version": 2', '"version": 9'), encoding="utf-8")
    for command in (["run"], ["resume"], ["retry", "--failed"], ["status"], ["report"]):
        assert "another version of this program" in call.refused(*command, file)


def test_an_unknown_command_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["qrt-tn", "studdy", "run"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "studdy" in line


def test_an_interrupt_before_anything_runs_ends_in_a_line(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qrt_tn.studies.cli.study_target.load_study", interrupt)
    code, out, err = call("run", write())
    assert (code, out) == (130, "")
    assert err == "qrt-tn: interrupted; nothing was left half-written\n"


def test_a_full_disk_ends_a_run_in_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", "run", "s.toml", "--no-report"]
        return subprocess.run([*command, "--store", disk / "s"], capture_output=True, text=True, check=False)

    try:
        write()
        assert run().returncode == 0
        kept = {path: path.read_bytes() for path in (disk / "s" / "results").rglob("*.json")}
        with pytest.raises(OSError, match="No space"), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        write(TEXT.replace("[1, 2]", "[1, 2, 3]"))
        full = run()
        assert full.returncode == 2
        line = full.stderr.splitlines()[-1]
        assert line.startswith(f"qrt-tn: the disk of {disk / 's'}")
        assert "free some space and give the same command again" in line
        assert "Traceback" not in full.stderr
        assert {path: path.read_bytes() for path in kept} == kept
        (disk / "ballast").unlink()
        assert run().stdout.startswith("s: 1 points finished")
        assert {path: path.read_bytes() for path in kept} == kept
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# what a person sees meanwhile


class Terminal:
    """A console that keeps its text."""

    def __init__(self, terminal: bool) -> None:
        import io

        from rich.console import Console

        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=150)


def state(tmp_path: Path) -> State:
    study = load_study(write())
    running = [Running(study.points[0], 65.0, lambda: 3 * 2**29)]
    return State(total=10, done=4, failed=1, left=5, running=running, ended_now=2, seconds=60.0)


@pytest.mark.parametrize(("terminal", "plain"), [(True, False), (True, True), (False, False)])
def test_a_run_shows_points_time_left_and_memory(tmp_path: Path, terminal: bool, plain: bool) -> None:
    shown = Terminal(terminal)
    now = state(tmp_path)
    with study_display.watching(load_study("s.toml"), shown.console, plain=plain) as watch:
        watch.show(now)
        watch.say("a [bold]note[/bold] that stays")
    text = shown.file.getvalue()
    for said in (
        "4 of 10 done",
        "1 running",
        "1 failed",
        "2 min 30 s left",
        "1.5 GiB of memory",
    ):
        assert said in text
    assert "a [bold]note[/bold] that stays" in text
    assert ("number=1, seed=0" in text) == (terminal and not plain)


def test_lines_come_now_and_then_only(tmp_path: Path) -> None:
    shown = Terminal(False)
    now = state(tmp_path)
    with study_display.watching(load_study("s.toml"), shown.console) as watch:
        for _ in range(20):
            watch.show(now)
    assert len(shown.file.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (18_720, "5 h 12 min"),
        (183_600, "2 d 3 h"),
    ],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert study_display.duration(seconds) == said


def test_the_time_left_follows_from_what_this_run_did() -> None:
    fresh = State(total=10, done=5, failed=0, left=5, running=[], ended_now=0, seconds=9.0)
    assert fresh.seconds_left is None
    later = State(total=10, done=2, failed=3, left=3, running=[], ended_now=2, seconds=10.0)
    assert later.seconds_left == 15.0


def test_a_study_is_found_by_its_name_where_it_was_run(call: Call) -> None:
    write()
    assert call("run", "s.toml", "--no-report")[0] == 0
    assert call("status", "s")[0] == 0


def test_a_folder_named_like_a_shipped_study_does_not_hide_it(call: Call) -> None:
    Path("rehearsal").mkdir()
    code, out, _ = call("run", "rehearsal", "--quick", "--no-report")
    assert (code, "rehearsal-quick: 10 points finished" in out) == (0, True)


def test_a_file_that_asks_for_other_points_does_not_replace_a_report(call: Call) -> None:
    file = write()
    assert call("run", file)[0] == 0
    before = Path("runs/s/report.html").read_text(encoding="utf-8")
    changed = Path(file).read_text(encoding="utf-8").replace("[axes]", "[axes]\nlabel = ['other']")
    Path(file).write_text(changed, encoding="utf-8")
    code, _, err = call("report", file)
    assert code == 2
    assert "are points of s.toml as it is" in err
    assert Path("runs/s/report.html").read_text(encoding="utf-8") == before


def test_an_export_names_results_that_are_not_whole(call: Call) -> None:
    file = write()
    call("run", file, "--no-report")
    kept = StudyStore(Path("runs/s"))
    path = kept.results.path(load_study(file).points[0].id)
    path.write_text("", encoding="utf-8")
    code, _, err = call("export", file, "s.csv")
    assert (code, len(Path("s.csv").read_text(encoding="utf-8").splitlines())) == (0, 2)
    assert f"{path} is not whole; the next run does that point again" in err


def test_a_study_whose_points_all_fail_is_reported_beside_older_results(call: Call) -> None:
    call("run", write(), "--no-report")
    file = write(TEXT.replace("[axes]\n", '[axes]\nending = ["error"]\n'))
    code, _, err = call("run", file)
    assert code == 1
    assert "none of the" not in err
    assert "this point was asked to fail" in Path("runs/s/report.html").read_text(encoding="utf-8")
