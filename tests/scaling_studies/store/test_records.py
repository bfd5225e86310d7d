import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.store import DiskFullError
from qrt_tn.studies.store.records import Records, parsed

ONE, OTHER = "ab" + 18 * "0", "cd" + 18 * "1"


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "results")


def record(point: str, value: float = 1.0) -> dict[str, Any]:
    return {"format": "qrt-tn.point", "id": point, "tables": {"points": [{"value": value}]}}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_record_comes_back_as_it_was(records: Records) -> None:
    # every bit of a number: results are compared between runs
    given = record(ONE, 0.1 + 0.2) | {"reason": 'a "quoted" é\nline', "nothing": None, "large": 2**60}
    assert ONE not in records
    records.write(ONE, given)
    assert ONE in records
    assert records.read(ONE) == given
    assert records.ids() == {ONE}
    assert json.loads(records.path(ONE).read_text(encoding="utf-8")) == given
    records.write(ONE, record(ONE, 2.0))
    assert records.read(ONE) == record(ONE, 2.0)
    assert files(records.folder) == [f"{ONE}.json"]


def test_ids_and_stamps_are_of_the_files_that_are_there(records: Records) -> None:
    assert records.ids() == set()
    assert records.stamps() == {}
    assert records.read(ONE) is None
    records.write(ONE, record(ONE))
    records.write(OTHER, record(OTHER))
    facts = records.path(OTHER).stat()
    assert records.ids() == {ONE, OTHER} == records.stamps().keys()
    assert records.stamps()[OTHER] == (facts.st_mtime_ns, facts.st_size)
    records.remove(ONE)
    records.remove(ONE)
    assert records.ids() == {OTHER}


def test_files_half_written_are_not_seen(records: Records) -> None:
    records.write(ONE, record(ONE))
    # what a kill leaves of a write: a hidden file beside the target
    half = records.path(ONE).with_name(f".{OTHER}.json.x7.json")
    half.write_text('{"id": "', encoding="utf-8")
    (records.folder / "note.txt").write_text("foreign", encoding="utf-8")
    assert records.ids() == {ONE} == records.stamps().keys()


def test_a_record_is_on_the_disk_under_another_name_before_it_has_its_own(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write(OTHER, record(OTHER))
    seen: list[tuple[bool, bool]] = []
    synced, renamed = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        seen.append((ONE in records, b"tables" in Path(f"/proc/self/fd/{handle}").read_bytes()))
        synced(handle)

    def replace(path: Path, target: Path) -> Path:
        assert seen == [(False, True)]
        monkeypatch.setattr(os, "fsync", synced)  # the folder's comes next
        return renamed(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    records.write(ONE, record(ONE))
    assert records.read(ONE) == record(ONE)
    assert seen == [(False, True)]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\x00" * 40, b"\xff\xfe", b"[1]", b'"text"', b"null", b'{"id": "another"}', b"{}"),
        100_000 * b"[",
        *(
            json.dumps({"id": ONE} | shape).encode()
            for shape in (
                {},
                {"tables": []},
                {"tables": {"points": {}}},
                {"tables": {"points": [1]}},
                {"tables": {}, "device": "fast"},
                {"tables": {}, "seed": "1"},
                {"tables": {}, "wall_seconds": "1"},
                {"kind": "error"},
                {"kind": 3, "reason": "no"},
            )
        ),
    ],
)
def test_files_that_are_not_this_points_record_are_none(records: Records, content: bytes) -> None:
    records.write(ONE, record(ONE))
    records.path(ONE).write_bytes(content)
    assert records.read(ONE) is None
    assert parsed(content, ONE) is None


def test_every_record_cut_short_is_known_for_it(records: Records) -> None:
    records.write(ONE, record(ONE))
    whole = records.path(ONE).read_bytes().rstrip()
    assert parsed(whole, ONE) == record(ONE)
    assert all(parsed(whole[:length], ONE) is None for length in range(len(whole)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_the_older_record_stays(
    records: Records, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    records.write(ONE, record(ONE, 1.0))

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for point in (ONE, OTHER):
            with pytest.raises(DiskFullError, match=r"is full .*free some space") as error:
                records.write(point, record(point, 2.0))
            assert str(records.folder) in str(error.value)
    assert records.read(ONE) == record(ONE, 1.0)
    assert files(records.folder) == [f"{ONE}.json"]
    records.write(OTHER, record(OTHER))
    assert records.ids() == {ONE, OTHER}


def test_other_errors_are_not_taken_for_a_full_disk(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output") as error:
        records.write(ONE, record(ONE))
    assert not isinstance(error.value, DiskFullError)
    assert records.ids() == set()


def test_no_record_holds_what_json_cannot(records: Records) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        records.write(ONE, record(ONE, float("nan")))
    assert files(records.folder) == []
