import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from qrt_tn.engine import cache

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_round_trip(folder):
    body = {"a": [1, 2.5e-300, None, "ω"], "z": {"10": 1, "9": [True]}, "b": 0.1 + 0.2, "big": 2**80}
    assert cache.read("plan", KEY) is None
    assert cache.write("plan", KEY, body)
    assert cache.read("plan", KEY) == body
    assert cache.read("device", KEY) is None
    assert cache.read("plan", "cd" * 32) is None
    assert list(cache.entries("plan")) == [body]
    assert [path.name for path in (folder / "plan").iterdir()] == [f"{KEY}.json"]
    assert cache.write("plan", KEY, {"new": (1, 2)})
    assert cache.read("plan", KEY) == {"new": [1, 2]}


def test_where_the_folder_is(monkeypatch, tmp_path):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.setenv("QRT_TN_CACHE", "~/plans")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "plans"
    monkeypatch.delenv("QRT_TN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "qrt-tn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == tmp_path / ".cache" / "qrt-tn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == tmp_path / ".cache" / "qrt-tn"


@pytest.mark.parametrize("word", ["", "off", "OFF "])
def test_switched_off(monkeypatch, tmp_path, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QRT_TN_CACHE", word)
    assert cache.folder() is None
    assert not cache.write("plan", KEY, {})
    assert cache.read("plan", KEY) is None
    assert list(cache.entries("plan")) == []
    assert list(tmp_path.iterdir()) == []


def test_any_damage_is_absence(folder):
    body = {"path": [[0, 1], [0, 2]], "flops": 12.5}
    cache.write("plan", KEY, body)
    path = folder / "plan" / f"{KEY}.json"
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is a newline
        path.write_bytes(whole[:length])
        assert cache.read("plan", KEY) is None
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        # white space between the words may change; nothing that means something may
        assert cache.read("plan", KEY) in (None, body)
    strange = [b"", b"null", b"[]", b"\xff\xfe", b"[" * 10**5, b'{"format": "qrt-tn cache"}', whole + b"x"]
    for text in strange:
        path.write_bytes(text)
        assert cache.read("plan", KEY) is None
        assert list(cache.entries("plan")) == []
    assert cache.write("plan", KEY, body)
    assert cache.read("plan", KEY) == body


def test_what_other_entries_say_is_not_taken(folder):
    cache.write("plan", KEY, {"a": 1})
    path = folder / "plan" / f"{KEY}.json"
    other = "cd" * 32
    path.rename(path.with_name(f"{other}.json"))
    assert cache.read("plan", other) is None
    held = json.loads((folder / "plan" / f"{other}.json").read_text())
    for change in ({"version": 2}, {"format": "else"}, {"kind": "device"}, {"body": {"a": 2}}, {"body": [1]}):
        path.write_text(json.dumps({**held, **change}))
        assert cache.read("plan", KEY) is None
    # laid out in another way it is still what it was
    path.write_text(json.dumps(held, indent=4))
    assert cache.read("plan", KEY) == {"a": 1}


def test_one_file(folder, tmp_path):
    cache.write("device", KEY, {"a": 1})
    copied = tmp_path / "copied.json"
    copied.write_bytes((folder / "device" / f"{KEY}.json").read_bytes())
    assert cache.read_file(copied, "device") == {"a": 1}
    with pytest.raises(ValueError, match=r"copied\.json does not hold a whole plan \(it holds 'device'"):
        cache.read_file(copied, "plan")
    copied.write_bytes(copied.read_bytes().replace(b'"a":1', b'"a":2'))
    with pytest.raises(ValueError, match="checksum does not fit its body"):
        cache.read_file(copied, "device")
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(ValueError, match="cannot read"):
            cache.read_file(path, "device")


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "file" / "cache"))
    assert not cache.write("plan", KEY, {"a": 1})
    assert cache.read("plan", KEY) is None
    assert list(cache.entries("plan")) == []


def test_a_read_only_folder_is_still_read(monkeypatch, folder):
    assert cache.write("plan", KEY, {"a": 1})

    def refuse(*_args, **_settings):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("qrt_tn.engine.files.tempfile.mkstemp", refuse)
    monkeypatch.setattr(cache.os, "utime", refuse)
    assert not cache.write("plan", KEY, {"a": 2})
    assert cache.read("plan", KEY) == {"a": 1}
    monkeypatch.undo()
    monkeypatch.setenv("QRT_TN_CACHE", str(folder))
    (folder / "device").mkdir()
    (folder / "device" / f"{KEY}.json").mkdir()  # a folder in the entry's place
    assert not cache.write("device", KEY, {"a": 1})
    assert cache.read("device", KEY) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(folder):
    (folder / "plan").mkdir(parents=True)
    (folder / "plan").chmod(0o500)
    assert not cache.write("plan", KEY, {"a": 1})


@pytest.mark.parametrize("key", ["", "ab", "../" * 21 + "a", KEY.upper(), f"{KEY}\n", 3])
def test_keys_that_are_none(key):
    for call in (lambda: cache.read("plan", key), lambda: cache.write("plan", key, {})):
        with pytest.raises(ValueError, match=r"key .* names no cache entry"):
            call()


def test_kinds_and_bodies_that_are_none():
    with pytest.raises(ValueError, match=r"kind '\.\./plan' names no cache entry"):
        cache.read("../plan", KEY)
    for body in ({"a": object()}, {"a": float("nan")}, {(1, 2): 3}):
        with pytest.raises(ValueError, match="the body of plan abababab cannot be kept as JSON"):
            cache.write("plan", KEY, body)


def test_the_least_recently_used_are_dropped(monkeypatch, folder):
    monkeypatch.setattr(cache, "LIMIT", 10)
    keys = [cache.digest(str(number)) for number in range(11)]
    for age, key in enumerate(keys[:10]):
        cache.write("plan", key, {"age": age})
        long_ago = time.time() - 10000 + age
        os.utime(folder / "plan" / f"{key}.json", (long_ago, long_ago))
    assert cache.read("plan", keys[1]) == {"age": 1}
    cache.write("plan", keys[10], {})
    # nine tenths of the limit are left: 0 and 2 were used longest ago
    assert {path.stem for path in (folder / "plan").iterdir()} == {keys[1], *keys[3:]}


def test_what_dead_writers_left_goes_away(folder):
    cache.write("plan", KEY, {})
    old, new = (folder / "plan" / f".{KEY}.json.{name}.json" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (1, 1))
    cache.write("plan", KEY, {})
    assert not old.exists()
    assert new.exists()  # its writer may be at work
    assert list(cache.entries("plan")) == [{}]


MANY = """
import sys, time
import numpy as np
from qrt_tn.engine import cache
cache.LIMIT = 6  # dropping goes on all the while
rng = np.random.default_rng(int(sys.argv[1]))
keys = [cache.digest(str(number)) for number in range(8)]
seen = 0
until = time.monotonic() + 2
while time.monotonic() < until:
    place = int(rng.integers(8))
    numbers = rng.integers(0, 2**40, int(rng.integers(0, 3000))).tolist()
    assert cache.write("plan", keys[place], {"place": place, "numbers": numbers, "sum": sum(numbers)})
    place = int(rng.integers(8))
    body = cache.read("plan", keys[place])
    if body is not None:
        seen += 1
        assert body["place"] == place and sum(body["numbers"]) == body["sum"]
print(seen)
"""


def test_many_writers_and_readers_at_once(folder):
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in range(4)
    ]
    for job in jobs:
        out, err = job.communicate(timeout=120)
        assert job.returncode == 0, err
        assert int(out) > 10
    left = list((folder / "plan").iterdir())
    assert 0 < len(left) <= 6
    assert not [path for path in left if path.name.startswith(".")]
    # no reader takes a broken file for absent either: there is none
    assert len(list(cache.entries("plan"))) == len(left)


KILLED = """
import os, signal, time
import numpy as np
from qrt_tn.engine import cache
rng = np.random.default_rng(0)
key = cache.digest("killed")
cache.write("plan", key, {"numbers": [], "sum": 0})
changed = 0
last = None
for life in range(40):
    child = os.fork()
    if child == 0:
        own = np.random.default_rng(life)
        while True:
            numbers = own.integers(0, 2**40, 20000).tolist()
            cache.write("plan", key, {"numbers": numbers, "sum": sum(numbers)})
    time.sleep(float(rng.uniform(0.01, 0.05)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    body = cache.read("plan", key)
    assert body is not None and sum(body["numbers"]) == body["sum"], life
    changed += body["sum"] != last
    last = body["sum"]
print(changed)
"""


def test_a_writer_killed_at_any_moment_breaks_nothing(folder):
    job = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120, check=False
    )
    assert job.returncode == 0, job.stderr
    assert int(job.stdout) > 5  # writers did get to write
    assert cache.read("plan", cache.digest("killed")) is not None


HALF = """
import os, signal
from pathlib import Path
from qrt_tn.engine import cache

def half(path, text, **_):
    with open(path, "w") as file:
        file.write(text[:len(text) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

Path.write_text = half
cache.write("plan", "ab" * 32, {"a": 2})
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_entry(folder):
    cache.write("plan", KEY, {"a": 1})
    assert subprocess.run([sys.executable, "-c", HALF], check=False).returncode == -9
    assert len(list((folder / "plan").iterdir())) == 2  # the entry, and half of the next
    assert cache.read("plan", KEY) == {"a": 1}
    assert cache.write("plan", KEY, {"a": 3})
    assert cache.read("plan", KEY) == {"a": 3}


def random_network(rng):
    count = int(rng.integers(3, 12))
    sizes = {place: int(rng.integers(1, 9)) for place in range(count)}
    inputs = [
        tuple(map(int, rng.choice(count, rng.integers(1, 4), replace=False)))
        for _ in range(int(rng.integers(2, 8)))
    ]
    used = sorted(set().union(*inputs))
    output = tuple(map(int, rng.permutation(used)[: int(rng.integers(0, 3))]))
    return inputs, output, sizes


def test_names_of_indices_do_not_count():
    rng = np.random.default_rng(3)
    for _ in range(50):
        inputs, output, sizes = random_network(rng)
        key = cache.structure_key(inputs, output, sizes, seed=1)
        assert len(key) == 64
        for name in (lambda place: f"k{place * 7}", lambda place: (100 - place, "b")):
            renamed = [[name(index) for index in term] for term in inputs]
            # the order of sizes does not count, nor do sizes that nothing has
            extents = {name(index): np.int64(size) for index, size in reversed(sizes.items())}
            found = cache.structure_key(
                renamed, [name(index) for index in output], {**extents, "else": 3}, seed=1
            )
            assert found == key


def test_all_else_counts():
    inputs, output, sizes = (
        [("a", "b"), ("b", "c"), ("c", "a", "d")],
        ("d", "a"),
        {"a": 2, "b": 3, "c": 4, "d": 5},
    )
    settings = {"optimizer": "greedy", "seed": 0, "memory_limit": None, "dtype": "complex64"}
    keys = [
        cache.structure_key(inputs, output, sizes, **settings),
        cache.structure_key([inputs[1], inputs[0], inputs[2]], output, sizes, **settings),
        cache.structure_key([("b", "a"), *inputs[1:]], output, sizes, **settings),
        cache.structure_key(inputs, ("a", "d"), sizes, **settings),
        cache.structure_key(inputs, ("d",), sizes, **settings),
        cache.structure_key([("a", "b", "c"), ("c", "a", "d")], output, sizes, **settings),
        cache.structure_key([("a", "b"), ("b",), ("c", "c", "a", "d")], output, sizes, **settings),
        cache.structure_key([*inputs, ()], output, sizes, **settings),
        *(cache.structure_key(inputs, output, {**sizes, name: 7}, **settings) for name in sizes),
        *(
            cache.structure_key(inputs, output, sizes, **{**settings, name: value})
            for name, value in (
                ("optimizer", "auto"),
                ("optimizer", [(0, 1), (0, 1)]),
                ("seed", 1),
                ("memory_limit", 2**30),
                ("dtype", "complex128"),
                ("more", None),
            )
        ),
    ]
    assert len(set(keys)) == len(keys)


def test_versions_count(monkeypatch):
    network = ([("a",)], (), {"a": 2})
    key = cache.structure_key(*network)
    for versions in (["3.4.0", "0.8.3", "9"], ["9", "0.8.3", "0.2.1"]):
        monkeypatch.setattr(cache, "_versions", lambda versions=versions: versions)
        assert cache.structure_key(*network) != key
    monkeypatch.undo()
    monkeypatch.setattr(cache, "STRUCTURE", cache.STRUCTURE + 1)
    assert cache.structure_key(*network) != key


def test_settings_without_a_hash():
    with pytest.raises(ValueError, match=r"settings .* cannot be hashed"):
        cache.structure_key([("a",)], (), {"a": 2}, optimizer=object())
