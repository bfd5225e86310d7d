import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies import report
from qrt_tn.studies.report.comparison import MARKS, against

Folder = Callable[..., Path]
Reader = Callable[[Path], Any]
SECTIONS = ["headline", "scores", "use", "nodes", "spectra", "state", "exact", "reproduce"]
OPTIONAL = "tolerance chosen states versions machine date commit notes model left_out timings seconds"
MISSED = {"seed": 0, "bond_dimensions": [3, 41, 7], "truncation_error": 0.07, "tolerance": 0.05}


@pytest.mark.parametrize(
    ("options", "absent", "told"),
    [
        ({}, "", "0.040.05yes"),
        ({"regression": True, "image": None}, "", "of the variance"),
        ({"image": (4, 4, 3)}, "", "one colour beside the other"),
        ({"seeds": (3,)}, "", "One seed decides nothing"),
        ({"counts": (8,)}, "scores", "8 nodes"),
        ({"states": []}, "state", "Where the frequencies lie"),
        ({"states": [MISSED]}, "", "largest bond is 41."),
        ({"states": [MISSED]}, "", "0.070.05no"),
        ({"methods": ("residual", "dense")}, "", "No nodes drawn without the targets were run"),
        (dict.fromkeys(OPTIONAL.split()), "state use", "Means over 3 seeds"),
        ({"left_out": [{"method": "svm", "why": "slow & big"}]}, "", "vector machine (slow & big)"),
    ],
)
def test_a_page_stands_alone(
    read_page: Reader, ticket_folder: Folder, options: dict, absent: str, told: str
) -> None:
    folder = ticket_folder(**options)
    page = read_page(report.write(folder))
    source, words = page.source, page.values("aria-label")
    assert page.sections == [name for name in SECTIONS if name not in absent.split()]
    assert told in page.text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text + " ".join(words))
    assert ("accuracy" in page.text.lower()) != bool(options.get("regression"))
    # every figure is told in words, a lone one is narrow, and nothing is empty
    assert len(words) == source.count("<svg") == len([*folder.glob("figures/*")])
    assert all(len(told) > 20 for told in words)
    for lone, row in re.findall(r'(<div class="lone">)?<div class="figures">(.*?)</div>', source, re.DOTALL):
        assert row.count("<figure>") == 1 if lone else row.count("<figure>") > 1
    assert not re.search(r"</h2>\s*</section>|<(ul|p|table|tbody|div class[^>]*)>\s*</", source)
    # nothing is fetched, and nothing points nowhere
    assert not re.search(r"<script|@import|url\((?!#)", source)
    links = {value for name in ("href", "src", "xlink:href") for value in page.values(name)}
    outside = {link for link in links if not link.startswith(("#", "data:image/png;base64,"))}
    assert outside == {"https://arxiv.org/abs/2605.13979"}
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"""(?:url\(|href=["'])#([^)"']+)""", source)} <= set(ids)
    light, dark = re.findall(r":root\{(.*?)\}", source)
    for name in set(re.findall(r"var\((--[\w-]+)\)", source)) - {"--positive", "--negative"}:
        assert light.count(f"{name}:") == dark.count(f"{name}:") == 1


@pytest.mark.parametrize("regression", [False, True])
def test_tiles_hold_the_means_of_the_metrics_and_a_mark_for_every_rival(
    ticket_folder: Folder, regression: bool
) -> None:
    results = report.load(ticket_folder(regression=regression))
    source = report.write(results.path).read_text(encoding="utf-8")
    assert re.findall(r"<(?:title|h1)>(.*?)</", source) == ["synthetic: hidden nodes compared"] * 2
    tiles = re.findall(r'<div class="tile">(.*?)</table>', source, re.DOTALL)
    for nodes, tile in zip((16, 64), tiles, strict=True):
        expected = []
        for method in results.methods():
            for training in results.trainings(method):
                at = None if method in ("linear", "svm") else nodes
                values = list(results.values(method, training, at).values())
                mean = sum(values) / len(values)
                found = against(results, (method, training, at), nodes)
                text = f"{mean:.3f}" if regression else f"{100 * mean:.1f}&nbsp;%"
                expected.append((method, text, MARKS[found.verdict]))
                assert f"<td>{mean:.3f}<small>" in source  # in the table of all means too
        assert f'<p class="big">{expected[0][1]}</p>' in tile
        assert re.findall(r"--([\w-]+)\).*?<td>([^<]*)<small>.*?>(.)</span>", tile) == expected[1:]
    runs = source.split("<summary>Every run")[1].split("</details>")[0]
    assert runs.count("<tr") == len(results.metrics["seed"]) + 1


def test_text_of_the_folder_is_escaped(read_page: Reader, ticket_folder: Folder) -> None:
    evil, names = '<script>alert("&")</script>', ['<b>&"x"', "$x$", "$\\frac{", "]]>", "a\\n"]
    changes: dict[str, Any] = dict.fromkeys(("title", "command", "date", "commit"), evil)
    changes |= {"notes": [evil], "timings": {evil: 1.0}, "versions": {evil: evil}, "machine": {evil: evil}}
    changes |= {"left_out": [{"method": evil, "why": evil}], "dataset": {"description": evil, "names": names}}
    page = read_page(report.write(ticket_folder(image=None, methods=("residual", f'"{evil}'), **changes)))
    assert "<script" not in page.source
    assert page.text.count(evil) >= 12
    nodes = page.source.split('<section id="nodes">')[1].split("</section>")[0]
    assert {*names} <= {unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", nodes)}


def test_writing_again_replaces_the_page_whole(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    report.write(folder)
    first = {path: path.read_bytes() for path in folder.glob("**/*.*")}
    (folder / "report.html").write_text("an older page")
    (folder / "figures" / "old.svg").write_text("of an older page")
    report.write(folder)
    assert {path: path.read_bytes() for path in folder.glob("**/*.*")} == first
    (folder / "metrics.parquet").write_text("torn")
    with pytest.raises(ValueError, match="not a whole parquet file"):
        report.write(folder)
    assert all(path.read_bytes() == first[path] for path in first if path.suffix != ".parquet")
