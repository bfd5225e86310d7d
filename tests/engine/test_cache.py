import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qrt_tn.engine import cache

KEY, OTHER = "ab" * 32, "cd" * 32
NETWORK = ((("a", "b"), ("b", "c"), ("c", "a", "d")), ("d", "a"), {"a": 2, "b": 3, "c": 4, "d": 5})


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_round_trip(folder):
    body = {"a": [1, 2.5e-300, None, "ω"], "z": {"10": 1, "9": [True]}, "b": 0.1 + 0.2, "big": 2**80}
    assert cache.read("plan", KEY) is None
    assert cache.write("plan", KEY, body)
    assert cache.read("plan", KEY) == body
    assert cache.read("device", KEY) is cache.read("plan", OTHER) is None
    assert list(cache.entries("plan")) == [body]
    assert cache.write("plan", KEY, {"new": (1, 2)})
    assert cache.read("plan", KEY) == {"new": [1, 2]}
    assert [path.name for path in (folder / "plan").iterdir()] == [f"{KEY}.json"]


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value, expected in [
        ("QRT_TN_CACHE", "~/plans", tmp_path / "plans"),
        ("QRT_TN_CACHE", "", None),
        ("QRT_TN_CACHE", "OFF ", None),
        ("XDG_CACHE_HOME", str(tmp_path / "xdg"), tmp_path / "xdg" / "qrt-tn"),
        ("XDG_CACHE_HOME", "relative", tmp_path / ".cache" / "qrt-tn"),
    ]:
        for variable in ("QRT_TN_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv(name, value)
        assert cache.folder() == expected
        if expected is None:
            assert not cache.write("plan", KEY, {})
            assert cache.read("plan", KEY) is None
            assert list(cache.entries("plan")) == []


def test_any_damage_is_absence(folder):
    body = {"path": [[0, 1], [0, 2]], "flops": 12.5}
    cache.write("plan", KEY, body)
    path = folder / "plan" / f"{KEY}.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole) - 1):  # the last byte is a newline
        flipped = bytearray(whole)
        flipped[place] ^= int(rng.integers(1, 256))
        for damaged in (whole[:place], flipped):
            path.write_bytes(damaged)
            assert cache.read("plan", KEY) in (None, body)  # white space may change
    head = json.loads(whole)
    changes = ({"format": "else"}, {"kind": "device"}, {"key": OTHER}, {"body": {"a": 2}}, {"body": [1]})
    strange = [b"", b"null", b"[]", b"\xff\xfe", b"[" * 10**5, b'{"a":' * 10**5, whole + b"x"]
    for text in [*strange, *(json.dumps({**head, **change}).encode() for change in changes)]:
        path.write_bytes(text)
        assert cache.read("plan", KEY) is None
        assert list(cache.entries("plan")) == []
        if OTHER.encode() not in text:  # a file alone may have any key
            with pytest.raises(ValueError, match=KEY):
                cache.read_file(path, "plan")
    path.write_text(json.dumps(head, indent=4))
    assert cache.read("plan", KEY) == cache.read_file(path, "plan") == body
    with pytest.raises(ValueError, match="cannot read"):
        cache.read_file(folder, "plan")


def test_a_folder_that_cannot_be_written(monkeypatch, folder):
    assert cache.write("plan", KEY, {"a": 1})

    def refuse(*_args, **_settings):
        raise PermissionError("read-only file system")

    with monkeypatch.context() as patched:  # another user's folder
        patched.setattr("qrt_tn.engine.files.tempfile.mkstemp", refuse)
        patched.setattr(cache.os, "utime", refuse)
        cache.write("plan", KEY, {"a": 2})
        assert not cache.write("plan", OTHER, {"a": 2})
        assert cache.read("plan", KEY) == {"a": 1}
    (folder / "device" / f"{KEY}.json").mkdir(parents=True)  # a folder in the entry's place
    assert not cache.write("device", KEY, {"a": 1})
    assert cache.read("device", KEY) is None
    monkeypatch.setenv("QRT_TN_CACHE", str(folder / "plan" / f"{KEY}.json" / "cache"))  # a file on the way
    assert not cache.write("plan", KEY, {"a": 1})
    assert cache.read("plan", KEY) is None
    assert list(cache.entries("plan")) == []


def test_refusals():
    keys = ["", "ab", "../" * 21 + "a", KEY.upper(), 3]
    for kind, key in [("../x", KEY), *(("plan", key) for key in keys)]:
        for call in (cache.read, lambda *words: cache.write(*words, {})):
            with pytest.raises(ValueError, match="names no cache entry"):
                call(kind, key)
    for value in (object(), float("nan"), {(1, 2): 3}):
        with pytest.raises(ValueError, match="abababab"):
            cache.write("plan", KEY, {"a": value})


def test_the_least_recently_used_and_what_dead_writers_left_are_removed(monkeypatch, folder):
    monkeypatch.setattr(cache, "LIMIT", 10)
    keys = [cache.digest(str(number)) for number in range(11)]
    for age, key in enumerate(keys[:10]):
        cache.write("plan", key, {"age": age})
        os.utime(folder / "plan" / f"{key}.json", (10**9 + age,) * 2)
    old, new = (folder / "plan" / f".{KEY}.json.{name}.json" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (1, 1))
    assert cache.read("plan", keys[1]) == {"age": 1}
    cache.write("plan", keys[10], {})
    # nine tenths of the limit are left: 0 and 2 were used longest ago; the new writer may be at work
    left = {path.name for path in (folder / "plan").iterdir()}
    assert left == {f"{key}.json" for key in (keys[1], *keys[3:])} | {new.name}


WRITER = """
import sys
import numpy as np
from qrt_tn.engine import cache
cache.LIMIT = 6  # entries are removed all the while
rng = np.random.default_rng(int(sys.argv[1]))
print(flush=True)
while True:
    place, numbers = int(rng.integers(8)), rng.integers(0, 2**40, int(rng.integers(0, 20000))).tolist()
    body = {"place": place, "numbers": numbers, "sum": sum(numbers)}
    assert cache.write("plan", cache.digest(str(place)), body)
"""


def test_writers_that_race_and_are_killed_leave_whole_entries(folder):
    keys = [cache.digest(str(place)) for place in range(8)]
    rng, seen = np.random.default_rng(0), set()
    for life in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(4 * life + seed)], stdout=subprocess.PIPE)
            for seed in range(3)
        ]
        for writer in writers:
            writer.stdout.readline()
        for _ in range(300):
            time.sleep(float(rng.uniform(0, 0.005)))
            place = int(rng.integers(8))
            body = cache.read("plan", keys[place])
            if body is not None:
                assert body["place"] == place
                assert sum(body["numbers"]) == body["sum"]
                seen.add(body["sum"])
        for writer in writers:
            assert writer.poll() is None
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        whole = [path for path in (folder / "plan").iterdir() if not path.name.startswith(".")]
        assert len(whole) == len(list(cache.entries("plan")))
    assert len(seen) > 10
    assert cache.write("plan", KEY, {"a": 3})
    assert cache.read("plan", KEY) == {"a": 3}


def test_names_of_indices_do_not_count():
    inputs, output, sizes = NETWORK
    key = cache.structure_key(*NETWORK, seed=1)
    for name in ("b", ("x", 3), 7):
        names = {index: (name, place) for place, index in enumerate("dcba")}
        renamed = tuple(tuple(names[index] for index in term) for term in inputs)
        # neither do the order of sizes and sizes that nothing has
        extents = {names[index]: size for index, size in reversed(sizes.items())} | {"else": 3}
        assert cache.structure_key(renamed, tuple(names[i] for i in output), extents, seed=1) == key


def test_all_else_counts(monkeypatch):
    inputs, output, sizes = NETWORK
    keys = [
        cache.structure_key(inputs, output, sizes, seed=0),
        cache.structure_key((inputs[1], inputs[0], inputs[2]), output, sizes, seed=0),
        cache.structure_key((("b", "a"), *inputs[1:]), output, sizes, seed=0),
        cache.structure_key(inputs, ("a", "d"), sizes, seed=0),
        cache.structure_key(inputs, ("d",), sizes, seed=0),
        cache.structure_key((*inputs, output), (), sizes, seed=0),
        cache.structure_key((("a", "b"), ("b",), ("c", "c", "a", "d")), output, sizes, seed=0),
        *(cache.structure_key(inputs, output, {**sizes, name: 7}, seed=0) for name in sizes),
        *(cache.structure_key(*NETWORK, **{name: 1}) for name in ("seed", "limit")),
    ]
    for name, value in (("_versions", lambda: ["9"]), ("STRUCTURE", 0)):
        with monkeypatch.context() as patched:
            patched.setattr(cache, name, value)
            keys.append(cache.structure_key(*NETWORK, seed=0))
    assert len(set(keys)) == len(keys)
