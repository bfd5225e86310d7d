"""Sampling in chunks: the same nodes however often the job was killed, and no job that cannot fit."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes, load_chunks, sampling, states
from qrt_tn.states import chunks


def transform(seed=0, modulus=5, dim=3, activation="relu"):
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(modulus,) * dim)
    return QuantumRidgeletTransform(states.from_dense(f), Ridgelet(activation, modulus), "numpy")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "_MOST", 10)


def same(left, right):
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in ("a", "b", "log_probability"))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("survived", [0, 1, 3])
def test_a_killed_job_ends_with_the_nodes_of_one_that_was_not(tmp_path, small_chunks, survived):
    qrt = transform()
    whole = qrt.sample(47, seed=3)

    def kill(done, total):
        assert total == 47
        if done >= 10 * (survived + 1):
            raise KilledError

    with pytest.raises(KilledError):
        qrt.sample(47, seed=3, checkpoint=tmp_path / "job", progress=kill)
    kept = sorted(path.name for path in (tmp_path / "job").glob("nodes-*"))
    assert len(kept) == survived + 1
    drawn = []
    resumed = transform().sample(
        47, seed=3, checkpoint=tmp_path / "job", progress=lambda done, _: drawn.append(done)
    )
    assert same(resumed, whole)
    assert same(RidgeNodes.concatenate(list(load_chunks(tmp_path / "job"))), whole)


def test_a_finished_job_is_read_not_drawn(tmp_path, small_chunks, monkeypatch):
    qrt = transform()
    whole = qrt.sample(25, seed=1, checkpoint=tmp_path / "job")
    monkeypatch.setattr(sampling, "_drawn", lambda *_: pytest.fail("drew a chunk that was there"))
    assert same(qrt.sample(25, seed=1, checkpoint=tmp_path / "job"), whole)


def test_a_damaged_chunk_is_drawn_again(tmp_path, small_chunks):
    qrt = transform()
    whole = qrt.sample(25, seed=1, checkpoint=tmp_path / "job")
    path = tmp_path / "job" / "nodes-00000001.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="chunk 1 of 3 is missing"):
        list(load_chunks(tmp_path / "job"))
    assert same(qrt.sample(25, seed=1, checkpoint=tmp_path / "job"), whole)


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: transform(seed=1).sample(25, seed=1, checkpoint=folder),
        lambda folder: transform(activation="cosine").sample(25, seed=1, checkpoint=folder),
        lambda folder: transform().sample(26, seed=1, checkpoint=folder),
        lambda folder: transform().sample(25, seed=2, checkpoint=folder),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other):
    folder = tmp_path / "job"
    transform().sample(25, seed=1, checkpoint=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="another run"):
        other(folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_needs_an_int_seed_and_a_folder_of_its_own(tmp_path):
    with pytest.raises(ValueError, match="needs an int seed"):
        transform().sample(5, seed=np.random.default_rng(0), checkpoint=tmp_path / "job")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        transform().sample(5, seed=0, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds no sampling job"):
        list(load_chunks(tmp_path / "nothing"))


def test_chunks_are_the_sample_piece_by_piece(small_chunks):
    qrt = transform()
    parts = list(qrt.sample_chunks(33, seed=2))
    assert [len(part) for part in parts] == [10, 10, 10, 3]
    assert same(RidgeNodes.concatenate(parts), qrt.sample(33, seed=2))
    assert not np.array_equal(parts[0].a, parts[1].a)


def test_chunks_follow_the_transform(small_chunks):
    qrt = transform(dim=1, modulus=7)
    nodes = qrt.sample(3000, seed=5)
    expected = np.abs(qrt.to_dense()) ** 2
    counts = np.zeros_like(expected)
    np.add.at(counts, (nodes.a[:, 0], nodes.b), 1)
    likely = expected > 1e-12
    assert counts[~likely].sum() == 0
    assert stats.chisquare(counts[likely], 3000 * expected[likely] / expected[likely].sum()).pvalue > 1e-4


def test_a_generator_goes_on_from_chunk_to_chunk(small_chunks):
    rng = np.random.default_rng(3)
    first, second = transform().sample(15, seed=rng), transform().sample(15, seed=rng)
    assert not np.array_equal(first.a, second.a)
    assert same(first, transform().sample(15, seed=np.random.default_rng(3)))


def test_nodes_that_do_not_fit_are_refused_before_any_is_drawn(monkeypatch):
    qrt = transform()
    monkeypatch.setattr(sampling, "device_memory", lambda name: (2**22, 2**22))
    monkeypatch.setattr(sampling, "_drawn", lambda *_: pytest.fail("drew nodes"))
    with pytest.raises(ValueError, match=r"1000000 nodes in 3 dimensions take 38\.15 MiB.*sample_chunks"):
        qrt.sample(10**6)
    monkeypatch.setattr(sampling, "device_memory", lambda name: (2**10, 2**10))
    with pytest.raises(ValueError, match="drawing 4096 nodes takes about"):
        qrt.sample_chunks(10**6)


def test_the_manifest_tells_how_many_chunks(tmp_path, small_chunks):
    transform().sample(25, seed=1, checkpoint=tmp_path / "job")
    manifest = json.loads((tmp_path / "job" / "sampling.json").read_text())
    assert manifest["format"] == "qrt-tn.sampling"
    assert manifest["chunks"] == 3


def test_profiles_that_do_not_fit_are_refused(monkeypatch):
    qrt = transform()
    a = np.zeros((1000, 3), dtype=int)
    monkeypatch.setattr(sampling, "device_memory", lambda name: (None, 2**16))
    with pytest.raises(ValueError, match=r"profiles of 1000 weights take 156\.2 KiB, and 64 KiB are free"):
        qrt.profiles(a)
    assert len(qrt.log_weights(a)) == 1000  # chunk by chunk
    assert len(qrt.profiles(a[:10])) == 10


def test_a_complex_ridgelet_is_kept_too(tmp_path, small_chunks):
    r = np.random.default_rng(0).normal(size=(2, 5))
    ridgelet = Ridgelet("relu", 5, ridgelet=r[0] - r[0].mean() + 1j * (r[1] - r[1].mean()))
    qrt = QuantumRidgeletTransform(transform().state, ridgelet, "numpy")
    whole = qrt.sample(25, seed=1, checkpoint=tmp_path / "job")
    assert same(qrt.sample(25, seed=1, checkpoint=tmp_path / "job"), whole)


def test_a_job_goes_on_where_rounding_differs(tmp_path, small_chunks):
    """As on a machine with another BLAS: the state and its ridgelet are the same up to rounding."""
    folder = tmp_path / "job"
    qrt = transform()
    whole = qrt.sample(25, seed=1, checkpoint=folder)
    (folder / "nodes-00000002.safetensors").unlink()
    rng = np.random.default_rng(0)
    f = rng.normal(size=(5,) * 3).astype(np.float32).astype(np.float64)
    rounded = states.from_dense(f)
    assert not np.array_equal(rounded.spectrum(whole.a).mantissa, qrt.state.spectrum(whole.a).mantissa)
    again = QuantumRidgeletTransform(rounded, qrt.ridgelet, "numpy").sample(25, seed=1, checkpoint=folder)
    assert same(again[:20], whole[:20])
    assert np.allclose(again.log_probability, whole.log_probability, atol=1e-4)


def test_a_state_without_amplitude_where_the_other_drew_is_another_run(tmp_path, small_chunks):
    folder = tmp_path / "job"
    rng = np.random.default_rng(1)
    ridgelet = Ridgelet("relu", 5)
    for seed, refused in ((1, False), (2, True)):
        a = np.random.default_rng(seed).integers(5, size=(1, 6))
        state = states.from_ridges(a, [0], rng.normal(size=(1, 2)), ridgelet)
        qrt = QuantumRidgeletTransform(state, ridgelet, "numpy")
        if refused:
            with pytest.raises(ValueError, match="another run"):
                qrt.sample(12, seed=0, checkpoint=folder)
        else:
            qrt.sample(12, seed=0, checkpoint=folder)


def test_a_manifest_that_is_not_whole_is_refused(tmp_path, small_chunks):
    folder = tmp_path / "job"
    transform().sample(25, seed=1, checkpoint=folder)
    manifest = folder / "sampling.json"
    known = json.loads(manifest.read_text())
    del known["drawn"]
    manifest.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="not whole"):
        transform().sample(25, seed=1, checkpoint=folder)
    manifest.write_text("[]")
    with pytest.raises(ValueError, match="not whole"):
        transform().sample(25, seed=1, checkpoint=folder)


def other_phases(kind):
    """Two transforms whose states have one |f^| and differ in phases."""
    rng = np.random.default_rng(0)
    relu = Ridgelet("relu", 7)
    if kind == "ridges":
        a = rng.integers(7, size=(3, 5))
        pair = [states.from_ridges(a, b, [1.0, 2.0, 3.0], relu) for b in ([0, 1, 2], [3, 5, 6])]
    elif kind == "samples":
        x = rng.integers(7, size=(30, 4))
        y = rng.normal(size=30).astype(np.float32)
        pair = [states.from_samples(points, y, 7) for points in (x, (x + np.eye(4, dtype=int)[0]) % 7)]
    else:
        cores = [rng.normal(size=shape) for shape in ((1, 7, 3), (3, 7, 3), (3, 7, 1))]
        pair = [states.from_mps([np.roll(cores[0], shift, axis=1), *cores[1:]]) for shift in (0, 2)]
    return [QuantumRidgeletTransform(state, relu, "numpy") for state in pair]


@pytest.mark.parametrize("kind", ["ridges", "samples", "mps"])
def test_a_state_that_differs_in_phases_is_another_run(kind, tmp_path, small_chunks):
    first, second = other_phases(kind)
    first.sample(25, seed=1, checkpoint=tmp_path / "job")
    with pytest.raises(ValueError, match="another run"):
        second.sample(25, seed=1, checkpoint=tmp_path / "job")


def test_one_value_among_many_that_changed_is_another_run(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(127, size=(5000, 20)), rng.normal(size=5000).astype(np.float32)
    changed = y.copy()
    changed[7] += 0.1
    first, second = (
        QuantumRidgeletTransform(states.from_samples(x, values, 127), Ridgelet("relu", 127), "numpy")
        for values in (y, changed)
    )
    first.sample(3, seed=1, checkpoint=tmp_path / "job")
    with pytest.raises(ValueError, match="another run"):
        second.sample(3, seed=1, checkpoint=tmp_path / "job")


def test_what_is_wrong_is_told_before_the_first_chunk(tmp_path, small_chunks):
    qrt = transform()
    with pytest.raises(ValueError, match="seed is -1"):
        qrt.sample_chunks(20, seed=-1)
    qrt.sample(25, seed=1, checkpoint=tmp_path / "job")
    with pytest.raises(ValueError, match="another run"):
        qrt.sample_chunks(25, seed=2, checkpoint=tmp_path / "job")
    (tmp_path / "job" / "nodes-00000002.safetensors").unlink()
    with pytest.raises(ValueError, match="chunk 2 of 3 is missing"):
        load_chunks(tmp_path / "job")
    with pytest.raises(ValueError, match="holds no sampling job"):
        load_chunks(tmp_path / "nothing")


def test_a_job_that_goes_on_draws_no_fingerprints(tmp_path, small_chunks, monkeypatch):
    qrt = transform()
    qrt.sample(25, seed=1, checkpoint=tmp_path / "job")
    monkeypatch.setattr(type(qrt.state), "sample_spectrum", lambda *_, **__: pytest.fail("drew"))
    qrt.sample(25, seed=1, checkpoint=tmp_path / "job")


def test_nodes_are_held_once():
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
