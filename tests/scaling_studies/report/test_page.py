import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt_tn.studies import report
from qrt_tn.studies.report import headline, tables
from qrt_tn.studies.report.folder import load

Folder = Callable[..., Path]
Reader = Callable[[Path], Any]
VOID = {"meta", "br", "link", "img", "input", "hr"}
SECTIONS = ["headline", "accuracy", "risk", "filter", "nodes", "spectra", "state", "exact", "reproduce"]


def test_a_whole_report_stands_alone(read_page: Reader, ticket_folder: Folder) -> None:
    path = report.write(ticket_folder())
    assert path.name == "report.html"
    assert path.stat().st_size < 3_000_000
    page = read_page(path)
    assert page.sections == SECTIONS
    source = path.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            local = value.startswith(("#", "data:image/png;base64,"))
            assert local or (tag, value) == ("a", "https://arxiv.org/abs/2605.13979")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r"url\(#([^)]+)\)", source)) | {
        value[1:] for value in page.values("xlink:href") + page.values("href") if value.startswith("#")
    }
    assert targets
    assert targets <= set(ids)


def test_colours_of_the_page_are_defined(ticket_folder: Folder) -> None:
    source = report.write(ticket_folder()).read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[\w-]+)\)", source))
    light, dark = re.search(r":root\{(.*?)\}\n@media[^{]*\{:root\{(.*?)\}\}", source).groups()  # type: ignore[union-attr]
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark or name in ("--positive", "--negative")


def test_every_figure_says_in_words_what_it_shows(read_page: Reader, ticket_folder: Folder) -> None:
    page = read_page(report.write(ticket_folder()))
    drawings = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert (
        len(drawings) == len([1 for tag, name, _ in page.attributes if tag == "svg" and name == "role"]) == 14
    )
    assert all(len(words) > 20 for words in drawings)


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"regression": True, "image": False}, {"accuracy"}),
        ({"seeds": (3,)}, set()),
        ({"methods": ("qrt-smoothed",)}, {"filter"}),
        ({"methods": ("filter", "dense")}, {"headline", "filter"}),
        ({"node_counts": (8,)}, set()),
        ({"manifest_changes": {"states": None, "smoothing": None}}, {"state"}),
    ],
)
def test_a_report_of_part_of_the_results(
    read_page: Reader, ticket_folder: Folder, options: dict[str, Any], absent: set[str]
) -> None:
    page = read_page(report.write(ticket_folder(**options)))
    assert page.sections == [name for name in SECTIONS if name not in absent]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text)
    if options.get("regression"):
        assert "accuracy" not in page.text.lower()


def test_a_bare_manifest_is_enough(read_page: Reader, ticket_folder: Folder) -> None:
    bare = dict.fromkeys(
        (
            "levels",
            "guard_band",
            "activation",
            "smoothing",
            "tolerance",
            "selection",
            "states",
            "broad",
            "timings",
        )
    )
    bare |= dict.fromkeys(("seconds", "versions", "machine", "date", "commit", "notes"))
    bare["dataset"] = {"points": 1797, "dim": 64}
    page = read_page(report.write(ticket_folder(manifest_changes=bare)))
    assert "None" not in page.text


def test_what_was_chosen_is_bold_among_what_was_tried(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    manifest = load(folder).manifest
    (own,) = [
        entry
        for entry in manifest["selection"]
        if (entry["activation"], entry["smoothing"], entry["nodes"]) == ("cosine", 0.7, 64)
    ]
    html = tables.selection(manifest)
    bold = re.findall(r"<b>(.*?)</b>", html)
    assert bold == [f"{sum(own['validation_accuracy']) / 3:.3f}"]


def test_text_of_the_manifest_is_escaped(read_page: Reader, ticket_folder: Folder) -> None:
    evil = '<script>alert("&")</script>'
    changes: dict[str, Any] = dict.fromkeys(("title", "command", "activation", "date", "commit"), evil)
    changes |= {"notes": [evil], "timings": {evil: 1.0}, "versions": {evil: evil}, "machine": {evil: evil}}
    changes["dataset"] = {"name": evil, "points": 9, "dim": 64, "image_shape": None, "classes": [evil, "b"]}
    changes["selection"] = [
        {"activation": evil, "smoothing": 1.0, "nodes": 64, "validation_accuracy": [0.5]},
    ]
    path = report.write(ticket_folder(manifest_changes=changes))
    assert "<script" not in path.read_text(encoding="utf-8")
    assert read_page(path).text.count(evil) >= 9


def test_writing_again_replaces_the_page_and_leaves_nothing_else(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    first = report.write(folder).read_bytes()
    (folder / "report.html").write_text("an older page")
    assert report.write(folder).read_bytes() == first
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "metrics.parquet", "showcase.safetensors", "figures", "report.html"}


def test_a_malformed_folder_leaves_an_older_page_alone(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    (folder / "report.html").write_text("an older page")
    (folder / "metrics.parquet").write_text("torn")
    with pytest.raises(ValueError, match="not a whole parquet file"):
        report.write(folder)
    assert (folder / "report.html").read_text() == "an older page"
    assert not (folder / "figures").exists()


def set_scores(folder_results: Any, scores: dict[tuple[str, str], tuple[float, ...]]) -> None:
    """Test and validation accuracy of (method, training), one value a seed, at every node count."""
    metrics = folder_results.metrics
    for (method, training), values in scores.items():
        for seed, value in enumerate(values):
            chosen = (
                (metrics["method"] == method) & (metrics["training"] == training) & (metrics["seed"] == seed)
            )
            metrics["test_accuracy"][chosen] = value
            metrics["validation_accuracy"][chosen] = value


def test_the_headline_is_chosen_by_validation_and_ranked_by_bands(ticket_folder: Folder) -> None:
    results = load(ticket_folder())
    set_scores(
        results,
        {
            ("qrt-smoothed", "fitted"): (0.93, 0.94, 0.95),
            ("qrt-smoothed", "trained"): (0.10, 0.11, 0.12),
            ("filter", "fitted"): (0.90, 0.91, 0.92),
            ("filter", "trained"): (0.30, 0.31, 0.32),
            ("random-features", "fitted"): (0.94, 0.95, 0.96),
            ("random-features", "trained"): (0.40, 0.41, 0.42),
            ("dense", "trained"): (0.96, 0.97, 0.98),
        },
    )
    html = headline.headline(results)
    assert '<p class="big">0.940</p>' in html
    assert "smoothed QRT, output weights fitted, 0.930–0.950" in html
    sentence = (
        "With 64 nodes the smoothed QRT is ahead of its filter alone, level with random features, and behind"
    )
    assert f"{sentence} the dense network." in html
    trained = (results.metrics["method"] == "qrt-smoothed") & (results.metrics["training"] == "trained")
    results.metrics["validation_accuracy"][trained] = 0.99  # now validation, and not test, prefers it
    assert '<p class="big">0.110</p>' in headline.headline(results)


@pytest.mark.parametrize(
    ("own", "other", "higher", "word"),
    [
        ((0.90, 0.91, 0.92), (0.85, 0.86, 0.87), True, "ahead of"),
        ((0.90, 0.91, 0.92), (0.85, 0.86, 0.87), False, "behind"),
        ((0.90, 0.91, 0.92), (0.92, 0.93, 0.94), True, "level with"),
        ((0.9704, 0.9704, 0.9704), (0.9696, 0.9697, 0.9698), True, "level with"),
        ((0.1, 0.1, 0.1), (0.2, 0.2, 0.2), False, "ahead of"),
    ],
)
def test_verdicts(own: Any, other: Any, higher: bool, word: str) -> None:
    assert headline.verdict(own, other, higher) == word


def test_headline_counts(ticket_folder: Folder) -> None:
    assert headline.headline_counts(load(ticket_folder())) == [64, 256]
    assert headline.headline_counts(load(ticket_folder(node_counts=(8, 64)))) == [64]
    assert headline.headline_counts(load(ticket_folder(node_counts=(8, 16, 32, 128)))) == [16, 32]
    assert headline.headline_counts(load(ticket_folder(node_counts=(8,)))) == [8]


def test_the_gain_over_the_filter_is_told_in_numbers(read_page: Reader, ticket_folder: Folder) -> None:
    folder = ticket_folder()
    results = load(folder)
    qrt = (results.metrics["method"] == "qrt-broad") & (results.metrics["nodes"] == 64)
    filter_alone = (results.metrics["method"] == "filter-broad") & (results.metrics["nodes"] == 64)
    low, middle, high = np.sort(
        results.metrics["test_accuracy"][qrt] - results.metrics["test_accuracy"][filter_alone]
    )
    text = read_page(report.write(folder)).text.replace("−", "-")
    assert f"{middle:+.3f} ({low:+.3f} to {high:+.3f}) with 64 nodes" in text


def test_a_tolerance_that_was_missed_is_admitted(read_page: Reader, ticket_folder: Folder) -> None:
    state = {
        "seed": 0,
        "smoothing": 0.7,
        "bond_dimensions": [3, 41, 7],
        "truncation_error": 0.05,
        "tolerance": 0.03,
    }
    text = read_page(report.write(ticket_folder(manifest_changes={"states": [state]}))).text
    assert "the truncation error was 0.05 at most" in text
    assert re.search(r"0\.05\s*0\.03\s*no", text)
    assert "bonds of at most 41" in text


def test_the_spread_of_weights_is_told(read_page: Reader, ticket_folder: Folder) -> None:
    text = read_page(report.write(ticket_folder())).text.replace("−", "-")
    assert "from 1,024 draws" in text
    assert re.search(r"entropy, in nats\s*45\.25 ± 0\.50", text)
    # natural logarithms become powers of ten
    assert re.search(r"participation 1 / Σ p²\s*10\s*9\.99 ± 0\.20", text)
    assert re.search(r"one uniform node\s*10\s*-99\.89 ± 0\.20", text)
    without = read_page(report.write(ticket_folder(manifest_changes={"diagnosis": None}))).text
    assert "participation" not in without
