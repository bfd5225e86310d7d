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


def test_tables_and_json(tmp_path: Path) -> None:
    folders.write_table(tmp_path / "t.parquet", [{"n": 1, "x": 0.5}, {"n": 2, "x": None}])
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"n": 1, "x": 0.5}, {"n": 2, "x": None}]
    folders.write_json(tmp_path / "m.json", {"a": [1, 2]})
    assert (tmp_path / "m.json").read_text().startswith('{\n "a"')
