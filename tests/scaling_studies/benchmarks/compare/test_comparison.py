import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt_tn.studies import cli
from qrt_tn.studies.benchmarks.compare import Comparison, Line, as_json, compare, read_run, sentences, sheets
from qrt_tn.studies.benchmarks.timing import ratios

RESULTS = Path(cli.__file__).parents[1] / "results"
Result = dict[str, Any]
Save = Callable[[str, Result], Path]
MACHINE = {"processor": "Abacus", "cores": 2, "memory_gib": 4.0, "backend": "numpy", "load_average": 0.5}
ORIGIN: Result = {
    "date": "2026-01-02",
    "commit": "abc",
    "versions": {"numpy": "2.4"},
    "machine": MACHINE,
    "threads": {"blas": 2},
}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def saved(name: str, result: Result) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(result))
        return path

    return saved


def mps(seed: int, slow: dict[tuple[int, str], float] | None = None, rounds: int = 7) -> Result:
    """Two rows as `bench sample-mps` writes them, with 3 % of noise, samplers slowed by row and name."""
    rng = np.random.default_rng(seed)
    rows = []
    for dim in (200, 50):
        times = {"products": 0.25, "sweep": 0.6, "search": 0.2, "quimb": 0.1}
        seconds = {
            name: (mean * (slow or {}).get((dim, name), 1) * rng.lognormal(sigma=0.03, size=rounds)).tolist()
            for name, mean in times.items()
        }
        rows.append(
            {
                **{"dim": dim, "modulus": 31, "bond": 16, "nodes": 64, "rounds": rounds, "quimb_shots": 2},
                "seconds": {name: statistics.median(found) for name, found in seconds.items()},
                "samples": {"seconds": seconds},
                "to_products": {
                    name: ratios(seconds[name], seconds["products"]) for name in ("sweep", "search")
                },
                "to_quimb": {name: ratios(seconds["quimb"], seconds[name]) for name in ("sweep", "search")},
                "load_average": 1.0,
            }
        )
    return {"benchmark": "sample_mps", "rows": rows, **ORIGIN}


def without_rounds(result: Result) -> Result:
    """The same as files were before rounds were kept."""
    older = copy.deepcopy(result)
    for row in older["rows"]:
        row.pop("samples", None)
        for group in ("to_products", "to_quimb"):
            for found in row[group].values():
                del found["rounds"]
    return older


def both(save: Save, a: Result, b: Result, **options: Any) -> Comparison:
    return compare(read_run(save("a.json", a)), read_run(save("b.json", b)), **options)


def places(lines: list[Line]) -> set[tuple[int, str]]:
    return {(dict(line.a.row)["dim"], ".".join(line.a.path)) for line in lines}


def test_a_planted_slowdown_is_found_and_nothing_else(save: Save) -> None:
    found = both(save, mps(0), mps(1, {(50, "search"): 1.3}))
    assert places(found.slower) == {
        (50, "seconds.search"),
        (50, "to_products.search"),
        (50, "to_quimb.search"),
    }
    assert not found.chosen("better")
    assert [line.factor for line in found.lines] == sorted(
        (line.factor for line in found.lines), reverse=True
    )
    by_place = {(dict(line.a.row)["dim"], line.a.path): line for line in found.lines}
    slower = by_place[50, ("seconds", "search")]
    assert slower.ratio == pytest.approx(1.3, rel=0.1)
    assert slower.interval is not None
    assert 1 < slower.interval.low < slower.ratio < slower.interval.high
    # the larger the better: slower is a ratio below 1
    over_quimb = by_place[50, ("to_quimb", "search")]
    assert over_quimb.ratio == pytest.approx(1 / 1.3, rel=0.1)
    assert over_quimb.factor == 1 / over_quimb.ratio
    said = sentences(found)[-1]
    assert said.startswith("3 of 12 slower beyond their intervals; 0 faster; by chance 0.2")
    assert both(save, mps(1, {(50, "search"): 1.3}), mps(0)).chosen("better")


def test_references_tell_of_the_machine_and_not_of_ours(save: Save) -> None:
    whole = {(dim, name): 1.5 for dim in (200, 50) for name in ("products", "sweep", "search", "quimb")}
    found = both(save, mps(0), mps(1, whole))
    assert found.reference_factor == pytest.approx(1.5, rel=0.05)
    assert {place[1] for place in places(found.slower)} == {"seconds.sweep", "seconds.search"}
    assert places(found.chosen("worse", reference=True)) == {
        (dim, f"seconds.{name}") for dim in (200, 50) for name in ("products", "quimb")
    }
    assert any("takes 1.5" in sentence for sentence in sentences(found))


def test_a_difference_below_the_threshold_is_none(save: Save) -> None:
    slow = {(50, "search"): 1.3}
    assert not both(save, mps(0), mps(1, slow), threshold=1.6).slower
    with pytest.raises(ValueError, match=r"threshold is 0\.9; give a factor of at least 1"):
        both(save, mps(0), mps(1), threshold=0.9)


def test_equal_runs_leave_their_intervals_as_seldom_as_is_said(save: Save) -> None:
    """Noise alone: of every figure 1.9 % on the slow side (7 rounds give 96.2 %), so few of 720."""
    count = 0
    for seed in range(60):
        count += len(both(save, mps(2 * seed + 10), mps(2 * seed + 11), threshold=1.0).slower)
    assert count < 60 * 12 * 0.05
    assert count > 0


def test_older_files_have_ranges_or_nothing(save: Save) -> None:
    slow = {(50, "search"): 1.3}
    found = both(save, without_rounds(mps(0)), mps(1, slow))
    by_place = {(dict(line.a.row)["dim"], line.a.path): line for line in found.lines}
    ratio = by_place[50, ("to_products", "search")]
    assert ratio.interval is not None
    assert ratio.interval.confidence is None
    assert ratio.a.span is not None
    assert ratio.b.span is not None
    assert ratio.interval.low == ratio.b.span[0] / ratio.a.span[1]
    assert ratio.verdict == "worse"
    seconds = by_place[50, ("seconds", "search")]
    assert (seconds.interval, seconds.verdict) == (None, "unknown")
    assert sentences(found)[0].startswith("A tells no rounds")
    assert "4 without an interval" in sentences(found)[-1]
    cells = [row for row in sheets(found)[0].rows if row[1] == "to_products: search"]
    assert all(row[5].startswith("[[") for row in cells)


def test_rows_are_matched_by_what_they_are_of(save: Save) -> None:
    a, b = mps(0), mps(0)
    b["rows"].reverse()
    found = both(save, a, b)
    assert all(line.ratio == 1 for line in found.lines)
    a["rows"][0]["dim"] = 201
    del b["rows"][0]["to_quimb"]["sweep"]
    found = both(save, a, b)
    assert {dict(line.a.row)["dim"] for line in found.lines} == {50}
    only_a, only_b = sentences(found)[:2]
    assert only_a.startswith("Only in A, and not compared: dim=201, ")
    assert "to_quimb: sweep of dim=50" in only_a
    assert only_b.startswith("Only in B, and not compared: dim=200, ")
    written = as_json(found)
    assert {row["of"]["dim"] for row in written["only_in_a"]} == {201, 50}


def test_another_machine_is_a_warning(save: Save) -> None:
    other = mps(1)
    other["machine"] = {**MACHINE, "processor": "Engine", "load_average": 3.0}
    other["threads"] = {"blas": 1}
    other["versions"] = {"numpy": "2.5"}
    found = both(save, mps(0), other)
    assert found.warnings == (
        "The machines differ (processor is Abacus in A and Engine in B): times tell of them as much"
        " as of the program.",
        "Linear algebra had 2 threads in A and 1 in B.",
        "Run B ended at a load of 3.0 on 2 cores: others ran beside it.",
    )
    assert ("numpy", "2.4", "2.5") in found.differences
    assert sheets(found)[1].title == "What differs"
    assert not both(save, mps(0), mps(1)).warnings


def test_memory_has_a_verdict_of_its_own(save: Save) -> None:
    def states(bytes_: int) -> Result:
        row = {"kind": "MPS", "dim": 10, "nodes": 4, "seconds": 0.1, "bytes": bytes_}
        row["samples"] = {"seconds": [0.1, 0.11, 0.09, 0.1]}
        return {"format": "qrt-tn.bench-states", "version": 1, "rows": [row], **ORIGIN}

    found = both(save, states(1000), states(2000))
    assert not found.slower
    (line,) = found.chosen("worse", memory=True)
    assert (line.ratio, line.interval, line.word) == (2.0, None, "more")
    assert "1 with more memory" in sentences(found)[-1]


def test_rates_that_fall_are_slower(save: Save) -> None:
    def lottery(rate: float) -> Result:
        row = {"architecture": "lenet", "iterations": 10, "iterations_per_second": rate}
        row["samples"] = {"iterations_per_second": [rate, 0.99 * rate, 1.01 * rate, rate]}
        return {"benchmark": "lottery", "rows": [row], **ORIGIN}

    (line,) = both(save, lottery(100.0), lottery(50.0)).slower
    assert (line.ratio, line.factor, line.word) == (0.5, 2.0, "slower")
    (line,) = both(save, lottery(50.0), lottery(100.0)).chosen("better")
    assert line.word == "faster"


BROKEN = [
    ("{", "is not JSON: .* line 1 column 2"),
    ("[1]", "is not the file of a benchmark; known are engine,"),
    ("{}", "does not say which benchmark wrote it"),
    ('{"benchmark": "abacus"}', "is of 'abacus', which is not compared"),
    ('{"benchmark": "moe", "rows": []}', "has no figures of the benchmark moe"),
    ('{"benchmark": "moe", "rows": 3}', "rows is no list of rows"),
    ('{"format": "qrt-tn.bench-states", "version": 2}', "has version 2 of its format"),
    (
        '{"benchmark": "lottery", "rows": [{"iterations_per_second": 2.0,'
        ' "samples": {"iterations_per_second": [0]}}]}',
        r"the rounds of iterations_per_second are \[0\]",
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_files_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(path)
    with pytest.raises(ValueError, match=r"there is no file .*b\.json"):
        read_run(tmp_path / "b.json")


def test_runs_that_cannot_be_compared_are_refused(save: Save, tmp_path: Path) -> None:
    other = mps(1)
    for row in other["rows"]:
        row["modulus"] = 127
    with pytest.raises(ValueError, match="have no figure in common; run the benchmark sample_mps"):
        both(save, mps(0), other)
    lottery = {"benchmark": "lottery", "rows": [{"architecture": "lenet", "iterations_per_second": 2.0}]}
    with pytest.raises(ValueError, match=r"of the benchmark sample_mps, .* of lottery; give two of one"):
        both(save, mps(0), lottery)
    with pytest.raises(ValueError, match="is a folder with 2 JSON files"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "engine-cpu",
        "states-cpu",
        "sample-mps-cpu",
        "sample-state-cpu",
        "smoothed-images-cpu",
        "lottery-training-cpu",
        "moe-dispatch-cpu",
    ],
)
def test_every_kept_result_is_read(name: str) -> None:
    """Each file in results has figures that name what they are of, and is itself again."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        pytest.skip("results are not installed with the package")
    run = read_run(path)
    assert len({one.key for one in run.quantities}) == len(run.quantities)
    assert all(one.row for one in run.quantities)
    kind = "rate" if run.benchmark == "lottery" else "time"
    assert any(one.measure.kind == kind and not one.measure.reference for one in run.quantities)
    assert all(line.ratio == 1 and line.verdict in ("even", "unknown") for line in compare(run, run).lines)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qrt-tn", "bench", "compare", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command_tells_and_fails_where_asked(
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    a, b = str(save("a.json", mps(0))), str(save("b.json", mps(1, {(50, "search"): 1.3})))
    assert call(monkeypatch, a, b, "--out", str(tmp_path / "found.json")) == 0
    printed = capsys.readouterr().out
    assert "sample_mps: B over A" in printed
    assert printed.count("slower") == 3 + 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["format"], found["slower"], len(found["rows"])) == ("qrt-tn.bench-compare", 3, 16)
    worst = found["rows"][0]
    assert (worst["verdict"], worst["of"]["dim"], worst["rounds"]) == ("worse", 50, [7, 7])
    assert call(monkeypatch, a, b, "--fail") == 1
    assert call(monkeypatch, a, b, "--fail", "--threshold", "2") == 0
    assert call(monkeypatch, a, a, "--fail") == 0
    assert call(monkeypatch, a, str(tmp_path / "found.json")) == 2
    assert "is of 'compare', which is not compared" in capsys.readouterr().err
