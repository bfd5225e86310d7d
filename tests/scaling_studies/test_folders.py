import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qrt_tn.studies import folders


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with folders.whole_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), folders.whole_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("1")
    with pytest.raises(ValueError, match="not an empty folder"), folders.whole_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "mine").read_text() == "1"


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with (
        pytest.raises(ValueError, match="cannot make the folder"),
        folders.whole_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_a_parent_that_is_a_file_passes_as_the_system_says_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(NotADirectoryError):
        folders.check_new(tmp_path / "file" / "run")


def test_a_second_run_is_refused_at_its_start(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with folders.whole_folder(target) as first:
        for spelling in (target, tmp_path / "other" / ".." / "run"):
            with (
                pytest.raises(ValueError, match=f"another run is writing the folder {target};"),
                folders.whole_folder(spelling),
            ):
                pytest.fail("two runs write one folder")
        assert first.is_dir()
        with folders.whole_folder(tmp_path / "run.more") as other:
            assert other.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.more"]


def test_a_run_that_was_killed_leaves_no_lock_and_the_next_sweeps_its_folder(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from qrt_tn.studies import folders
with folders.whole_folder(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("1")
    print("begun", flush=True)
    sys.stdin.read()
"""
    target = tmp_path / "run"
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "begun\n"
        with pytest.raises(ValueError, match="another run is writing"), folders.whole_folder(target):
            pytest.fail("two runs write one folder")
        run.kill()
    assert any(path.is_dir() for path in tmp_path.iterdir())
    with folders.whole_folder(target) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".run.lock", folder.name}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_its_own_leftovers_are_swept(tmp_path: Path) -> None:
    kept = (".run.settings", ".run.more.abcdefgh.partial", ".other.abcdefgh.partial", "run.abcdefgh.partial")
    for name in (*kept, ".run.abcdefgh.partial"):
        (tmp_path / name).mkdir()
    with folders.whole_folder(tmp_path / "run"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*kept, "run"))


def test_a_file_system_without_locks_is_no_error_and_nothing_is_swept_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = tmp_path / ".run.abcdefgh.partial"  # of a run that may still be at work
    left.mkdir()
    with folders.whole_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "run"]


def test_a_lock_whose_file_was_just_removed_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / ".run.lock").unlink())
    with pytest.raises(ValueError, match="another run is writing"), folders.whole_folder(tmp_path / "run"):
        pytest.fail("two runs may write one folder")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    with folders.whole_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "1"


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_names_work_and_longer_ones_are_refused(tmp_path: Path, letter: str) -> None:
    longest = tmp_path / (letter * (255 // len(letter.encode())))
    with folders.whole_folder(longest) as folder:
        (folder / "a").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]
    with pytest.raises(OSError, match="File name too long"), folders.whole_folder(tmp_path / (letter * 300)):
        pytest.fail("there is no such name")
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]


def test_tables_and_json(tmp_path: Path) -> None:
    folders.write_table(tmp_path / "t.parquet", [{"n": 1, "x": 0.5}, {"n": 2, "x": None}])
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"n": 1, "x": 0.5}, {"n": 2, "x": None}]
    folders.write_json(tmp_path / "m.json", {"a": [1, 2]})
    assert (tmp_path / "m.json").read_text().startswith('{\n "a"')
