import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qrt_tn.studies.report import comparison, load
from qrt_tn.studies.report.verdicts import paired

Folder = Callable[..., Path]
BETTER, LEVEL, WORSE = (0.90, 0.91, 0.92), (0.81, 0.79, 0.80), (0.70, 0.71, 0.72)
RIVALS = ("random-features", "filter")
UP = "Tickets paid off "
NONE = "it is a tie: no difference could be shown"
DOWN = "those drawn without the targets are ahead"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ((BETTER, BETTER, BETTER), f"{UP}at every node count."),
        ((BETTER,), f"{UP}with 16 nodes."),
        ((LEVEL, LEVEL), f"At every node count {NONE}."),
        ((WORSE, WORSE), f"At every node count {DOWN}."),
        ((WORSE,), f"With 16 nodes {DOWN}."),
        ((BETTER, LEVEL, LEVEL), f"{UP}with 16 nodes; with 64 and 1,024 nodes it is a tie."),
        ((BETTER, WORSE), f"{UP}with 16 nodes; with 64 nodes {DOWN}."),
        ((LEVEL, WORSE), f"With 16 nodes {NONE}; with 64 nodes {DOWN}."),
        ((WORSE, LEVEL, BETTER), f"{UP}with 1,024 nodes; with 64 nodes it is a tie; with 16 nodes {DOWN}."),
        ((BETTER[:1], WORSE[:1]), "One seed decides nothing: run at least three."),
        ((BETTER[:2], BETTER[:2]), "2 seeds decide nothing: run at least three."),
    ],
)
@pytest.mark.parametrize("better", RIVALS)
def test_verdict(ticket_folder: Folder, own: tuple, said: str, better: str) -> None:
    """Against the better of the methods that know nothing of the targets, whichever that is."""
    counts, seeds = (16, 64, 1024)[: len(own)], range(len(own[0]))
    scores = {
        (rival, n): [0.8 if rival == better else 0.5 for _ in seeds] for rival in RIVALS for n in counts
    }
    scores |= {("residual", n): values for n, values in zip(counts, own, strict=True)}
    folder = ticket_folder(scores=scores, counts=counts, seeds=seeds, methods=("residual", "dense", *RIVALS))
    assert comparison.verdict(load(folder)) == said
    assert {gain.rival for gain in comparison.gains(load(folder))} == {better}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "tickets read 91.0 % of the test points right, random features 80.0 %: +11.0 points (+7.7 to +"),
        ({}, "Without nodes, logistic regression reads 80.0 %."),
        ({"regression": True}, "tickets explain 91.0 % of the variance, random features 80.0 %: +11.0 "),
        ({"regression": True}, "Without nodes, ridge regression explains 80.0 %."),
        ({"methods": ("residual", "linear", "svm")}, "Without nodes, an RBF support-vector machine reads"),
        (
            {"scores": {("residual", 16): WORSE, ("random-features", 16): LEVEL, ("linear", None): BETTER}},
            "Ahead of tickets of 16 nodes: random features and logistic regression.",
        ),
        ({"seeds": (4,), "scores": {}}, "points in one seed."),
        ({"methods": ("residual", "dense")}, ""),
    ],
)
def test_sentences(ticket_folder: Folder, options: dict, said: str) -> None:
    scores = {("residual", 16): BETTER, ("random-features", 16): (0.8,) * 3, ("linear", None): LEVEL}
    made = {"methods": ("residual", "random-features", "linear"), "counts": (16,), "scores": scores} | options
    results = load(ticket_folder(**made))
    found = " ".join(comparison.sentences(results)).replace("\N{NO-BREAK SPACE}", " ")
    assert said in found if said else found == ""
    nothing = comparison.verdict(results).startswith("No nodes drawn without the targets were run")
    assert nothing == ("random-features" not in made["methods"])


@pytest.mark.parametrize("options", [{}, {"regression": True}, {"seeds": (0,)}])
def test_the_summary_holds_every_score_and_its_interval(ticket_folder: Folder, options: dict) -> None:
    results = load(ticket_folder(**options))
    found = comparison.summary(results)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["scores"]) == len(results.metrics["seed"]) / len(results.manifest["seeds"])
    for row in found["scores"]:
        own = results.values(row["method"], row["training"], row["nodes"])
        assert row["mean"] == pytest.approx(sum(own.values()) / len(own))
        assert ("rmse" in row) == bool(options.get("regression"))
        ticket = results.values("residual", "fitted", row["nodes"] or 64)
        expected = paired(ticket, own, 80, 320, counted=results.classification)
        if own != ticket:
            assert (row["ticket_ahead_by"], row["ticket_is"]) == (expected.mean, expected.verdict)
            assert row["interval"] == ([expected.low, expected.high] if len(own) > 2 else None)
