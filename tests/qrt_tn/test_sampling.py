"""Sampling in chunks: the same nodes however often a run was killed, and no run that cannot fit."""

import json
import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes, load_chunks, sampling, states
from qrt_tn.states import chunks


def transform(seed=0, modulus=5, dim=3, activation="relu"):
    f = np.random.default_rng(seed).normal(size=(modulus,) * dim)
    return QuantumRidgeletTransform(states.from_dense(f), Ridgelet(activation, modulus), "numpy")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "_MOST", 10)


def same(left, right):
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in ("a", "b", "log_probability"))


class KilledError(Exception):
    pass


def test_a_killed_run_ends_with_the_nodes_of_one_that_was_not(tmp_path, small_chunks, monkeypatch):
    folder, whole = tmp_path / "run", transform().sample(47, seed=3)
    for survived in (1, 2, 4):

        def kill(done, total, survived=survived):
            assert total == 47
            if done >= 10 * survived:
                raise KilledError

        with pytest.raises(KilledError):
            transform().sample(47, seed=3, checkpoint=folder, progress=kill)
        assert len(list(folder.glob("nodes-*"))) == survived
    assert same(transform().sample(47, seed=3, checkpoint=folder), whole)
    assert same(RidgeNodes.concatenate(list(load_chunks(folder))), whole)
    monkeypatch.setattr(sampling, "_draw", lambda *_: pytest.fail("drew a chunk that was there"))
    assert same(transform().sample(47, seed=3, checkpoint=folder), whole)


@pytest.mark.parametrize("damage", ["flipped", "torn", "gone"])
def test_a_damaged_chunk_is_drawn_again(tmp_path, small_chunks, damage):
    whole = transform().sample(25, seed=1, checkpoint=tmp_path)
    path = tmp_path / "nodes-00000001.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # a number inside, which stays a weight
        content[-1] ^= 1
    path.write_bytes(content[:50] if damage == "torn" else content)
    if damage == "gone":
        path.unlink()
        with pytest.raises(ValueError, match="chunk 1 of 3 is missing"):
            load_chunks(tmp_path)  # at once
    else:
        with pytest.raises(ValueError, match="chunk 1 of 3 is damaged"):
            list(load_chunks(tmp_path))
    assert same(transform().sample(25, seed=1, checkpoint=tmp_path), whole)
    assert same(RidgeNodes.concatenate(list(load_chunks(tmp_path))), whole)


def pair(kind):
    """Two transforms whose states or ridgelets differ, most in a single number or in phases alone."""
    rng = np.random.default_rng(0)
    relu, a = Ridgelet("relu", 7), rng.integers(7, size=(3, 5))
    x, y = rng.integers(7, size=(30, 4)), rng.normal(size=30).astype(np.float32)
    cores = [rng.normal(size=shape) for shape in ((1, 7, 3), (3, 7, 3), (3, 7, 1))]
    if kind == "ridges":
        both = [states.from_ridges(a, b, [1.0, 2.0, 3.0], relu) for b in ([0, 1, 2], [3, 5, 6])]
    elif kind == "points":
        both = [states.from_samples(points, y, 7) for points in (x, (x + np.eye(4, dtype=int)[0]) % 7)]
    elif kind == "values":
        both = [states.from_samples(x, values, 7) for values in (y, y + np.eye(30, dtype="f4")[7] / 10)]
    elif kind == "mps":
        both = [states.from_mps([np.roll(cores[0], shift, axis=1), *cores[1:]]) for shift in (0, 2)]
    elif kind == "network":
        both = [
            states.from_network(states.from_mps(cores).network(), order) for order in (SITES, SITES[::-1])
        ]
    else:
        transforms = [Ridgelet("relu", 7), Ridgelet("cosine", 7)]
        return [
            QuantumRidgeletTransform(states.from_mps(cores), ridgelet, "numpy") for ridgelet in transforms
        ]
    return [QuantumRidgeletTransform(state, relu, "numpy") for state in both]


SITES = ["x0", "x1", "x2"]


@pytest.mark.parametrize("kind", ["ridges", "points", "values", "mps", "network", "ridgelet"])
def test_a_checkpoint_of_another_run_is_refused(kind, tmp_path):
    first, other = pair(kind)
    again, _ = pair(kind)  # the same run in another process; quimb names its inner indices anew
    whole = first.sample(25, seed=1, checkpoint=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for run, count, seed in ((other, 25, 1), (again, 26, 1), (again, 25, 2)):
        with pytest.raises(ValueError, match="another run"):
            run.sample_chunks(count, seed=seed, checkpoint=tmp_path)  # before the first chunk
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert same(again.sample(25, seed=1, checkpoint=tmp_path), whole)


def test_refusals(tmp_path, small_chunks):
    transform().sample(25, seed=1, checkpoint=tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    qrt = transform()
    for call, shown in (
        (lambda: qrt.sample(5, np.random.default_rng(0), checkpoint=tmp_path / "new"), "needs an int seed"),
        (lambda: qrt.sample(5, 0, checkpoint=tmp_path), "holds other files"),
        (lambda: load_chunks(tmp_path / "nothing"), "nothing holds no sampling run"),
        (lambda: qrt.sample_chunks(20, seed=-1), "seed is -1"),
    ):
        with pytest.raises(ValueError, match=shown):
            call()
    manifest = tmp_path / "run" / "sampling.json"
    for content in ("[]", json.dumps({"chunks": 3}), ""):
        manifest.write_text(content)
        with pytest.raises(ValueError, match=r"sampling\.json is not whole"):
            qrt.sample(25, seed=1, checkpoint=tmp_path / "run")


def test_chunks_are_the_sample_piece_by_piece_and_follow_the_transform(small_chunks, oracle):
    qrt = transform(dim=1, modulus=7)
    parts = list(qrt.sample_chunks(20_003, seed=2))
    assert [len(part) for part in parts] == [10] * 2000 + [3]
    nodes = qrt.sample(20_003, seed=2)
    assert same(RidgeNodes.concatenate(parts), nodes)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), np.abs(qrt.to_dense()) ** 2) > 1e-4
    rng = np.random.default_rng(3)  # goes on from chunk to chunk, and from call to call
    first, second = qrt.sample(15, seed=rng), qrt.sample(15, seed=rng)
    assert not np.array_equal(first.a, second.a)
    assert same(first, qrt.sample(15, seed=np.random.default_rng(3)))


def test_what_does_not_fit_is_refused_before_any_node_is_drawn(monkeypatch):
    qrt = transform()
    a = np.zeros((1000, 3), dtype=int)
    monkeypatch.setattr(sampling, "_draw", lambda *_: pytest.fail("drew nodes"))
    monkeypatch.setattr(chunks, "device_memory", lambda name: (2**22, 2**22))
    with pytest.raises(ValueError, match=r"1000000 nodes in 3 dimensions take 41\.02 MiB.*sample_chunks"):
        qrt.sample(10**6)
    monkeypatch.setattr(chunks, "device_memory", lambda name: (2**10, 2**10))
    with pytest.raises(ValueError, match="drawing 4096 nodes takes about"):
        qrt.sample_chunks(10**6)
    monkeypatch.setattr(chunks, "device_memory", lambda name: (None, 2**16))
    with pytest.raises(ValueError, match=r"profiles of 1000 weights take 156\.2 KiB, and 64 KiB are free"):
        qrt.profiles(a)
    assert len(qrt.log_weights(a)) == 1000  # chunk by chunk


def test_nodes_are_in_memory_once():
    rng = np.random.default_rng(0)
    ridgelet = Ridgelet("relu", 5)
    state = states.from_ridges(rng.integers(5, size=(3, 400)), [0, 1, 2], [1.0, 2.0, 3.0], ridgelet)
    qrt = QuantumRidgeletTransform(state, ridgelet, "numpy")
    qrt.sample(5000)
    count = 40_000
    tracemalloc.start()
    nodes = qrt.sample(count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(nodes) == count
    predicted = chunks.node_bytes(state, count) + chunks.drawing_bytes(state, count, 4)
    assert 0.6 < peak / predicted < 1.1
