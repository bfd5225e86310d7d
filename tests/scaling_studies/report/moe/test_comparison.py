import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qrt_tn.studies.report.moe.comparison import (
    FINETUNED,
    Cell,
    Sample,
    Verdict,
    best_overall,
    cells,
    modes,
    panels_of,
)
from qrt_tn.studies.report.moe.folder import load

Folder = Callable[..., Path]


def cell(own: Sequence[float], draws: Sequence[Sequence[float]], name: str = "router-change") -> Cell:
    """A cell of one criterion."""
    paired = tuple(score - statistics.fmean(drawn) for score, drawn in zip(own, draws, strict=True))
    return Cell(
        "token-choice", "keep-router", 2, 0.25, {name: Sample(tuple(own))},
        tuple(map(tuple, draws)), {name: Sample(paired)},
    )  # fmt: skip


def test_differences_are_paired_by_network(moe_folder: Folder) -> None:
    results = load(moe_folder(criteria=("router-change", "reap", "merge", "random")))
    found = cells(results)
    assert len(found) == 2 * 3 * 3
    for part in found:
        rows = [r for r in results.pruned if (r["router"], r["pruned"]) == (part.router, part.pruned)]
        for name in ("router-change", "reap", "merge"):
            mode = "merge" if name == "merge" else part.mode
            expected = []
            for seed in range(3):
                drawn = [
                    r["accuracy"]
                    for r in rows
                    if (r["criterion"], r["mode"], r["seed"]) == ("random", part.mode, seed)
                ]
                own = [
                    r["accuracy"]
                    for r in rows
                    if (r["criterion"], r["mode"], r["seed"]) == (name, mode, seed)
                ]
                assert (len(drawn), len(own)) == (4, 1)
                expected.append(own[0] - sum(drawn) / 4)
            paired = part.differences[name]
            assert paired.values == pytest.approx(expected)
            assert (paired.low, paired.high, paired.count) == (min(paired.values), max(paired.values), 3)
            assert paired.median == pytest.approx(sorted(expected)[1])
        assert "random" not in part.differences


def test_a_seed_without_draws_is_left_out(moe_folder: Folder) -> None:
    results = load(moe_folder(criteria=("router-change", "random"), prune=(2,)))
    results.pruned[:] = [r for r in results.pruned if (r["criterion"], r["seed"]) != ("random", 1)]
    for part in cells(results):
        assert part.accuracies["router-change"].count == 3
        assert part.differences["router-change"].count == 2


def test_unpruned_rows_make_no_cell(moe_folder: Folder) -> None:
    results = load(moe_folder(criteria=("router-change", "random"), prune=(0, 2)))
    assert {part.pruned for part in cells(results)} == {2}


def test_only_what_was_fine_tuned_has_a_cell(moe_folder: Folder) -> None:
    found = cells(load(moe_folder()), FINETUNED)
    assert {part.mode for part in found} == {"keep-router"}
    assert set(found[0].accuracies) == {"router-change", "reap", "merge"}


def test_merging_counts_in_every_mode_and_alone(moe_folder: Folder) -> None:
    results = load(moe_folder(criteria=("merge", "random"), modes=("renormalize", "keep-router")))
    assert modes(results) == ["keep-router", "renormalize"]
    alone = load(moe_folder(criteria=("merge",)))
    assert modes(alone) == ["merge"]
    assert [part.mode for part in cells(alone)] == ["merge"] * 6


@pytest.mark.parametrize(
    ("own", "draws", "verdict"),
    [
        ((0.9, 0.92), ((0.8, 0.7), (0.85, 0.7)), Verdict.APART),
        ((0.9, 0.92), ((0.8, 0.7), (0.91, 0.7)), Verdict.AHEAD),  # one draw lies in the band
        ((0.9, 0.9), ((0.9, 0.7), (0.9, 0.7)), Verdict.AHEAD),  # bands that touch are not apart
        ((0.9, 0.7), ((0.8, 0.7), (0.8, 0.7)), Verdict.UNDECIDED),
        ((0.9, 0.8), ((0.8, 0.7), (0.8, 0.8)), Verdict.UNDECIDED),  # level for one seed
        ((0.7, 0.75), ((0.8, 0.7), (0.85, 0.7)), Verdict.BEHIND),
        ((0.6, 0.65), ((0.8, 0.7), (0.85, 0.7)), Verdict.BELOW),
        ((0.9,), ((0.1, 0.2),), Verdict.UNDECIDED),  # one seed has no range
        ((0.1,), ((0.9, 0.8),), Verdict.UNDECIDED),
    ],
)
def test_verdicts(own: Sequence[float], draws: Sequence[Sequence[float]], verdict: Verdict) -> None:
    found = cell(own, draws)
    assert found.verdict() is verdict
    assert found.verdict("reap") is None
    assert verdict.beats == (verdict in (Verdict.APART, Verdict.AHEAD))
    assert verdict.loses == (verdict in (Verdict.BEHIND, Verdict.BELOW))


def test_the_noise_of_random_is_about_each_networks_mean() -> None:
    found = cell((0.9, 0.9), ((0.8, 0.7), (0.5, 0.1)))
    assert found.noise == pytest.approx((-0.2, 0.2))


def test_ranks_and_the_best() -> None:
    found = Cell(
        "token-choice", "keep-router", 2, 0.25, {}, ((0.8,),),
        {"a": Sample((0.1, 0.2, 0.0)), "b": Sample((0.3, -0.1, 0.1)), "c": Sample((0.05,))},
    )  # fmt: skip
    assert [name for name, _ in found.ranked()] == ["a", "b", "c"]
    assert found.best() == ["a", "b"]
    worse = Cell("token-choice", "keep-router", 2, 0.25, {}, ((0.8,),), {"a": Sample((-0.1, 0.0))})
    assert worse.best() == []


def test_the_best_overall_is_in_all_cells() -> None:
    def part(**medians: float) -> Cell:
        found = {name: Sample((value,)) for name, value in medians.items()}
        return Cell("token-choice", "keep-router", 2, 0.25, found, ((0.5,),), found)

    assert best_overall([part(a=0.1, b=0.3), part(a=0.3, b=0.0)]) == "a"
    assert best_overall([part(a=0.1, b=0.3), part(a=0.1)]) == "a"
    assert best_overall([part(a=0.1), part(b=0.1)]) is None
    assert best_overall([]) is None


def test_cells_by_router_and_mode(moe_folder: Folder) -> None:
    groups = panels_of(cells(load(moe_folder(criteria=("router-change", "random")))))
    assert list(groups) == [
        (router, mode)
        for router in ("token-choice", "expert-choice")
        for mode in ("keep-router", "drop-router", "renormalize")
    ]
    assert all([part.pruned for part in group] == [2, 4, 6] for group in groups.values())
