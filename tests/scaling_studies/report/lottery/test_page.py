import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.report import lottery
from qrt_tn.studies.report.lottery import tables
from qrt_tn.studies.report.lottery.folder import load

Folder = Callable[..., Path]
Reader = Callable[[Path], Any]
SECTIONS = ["headline", "training", "levels", "random", "controls", "paper", "shallow", "overlap", "savings"]
SECTIONS += ["reproduce"]
SMALL: dict[str, Any] = {"levels": (1, 3, 7, 9), "evaluations": 8}
FILES = {"manifest.json", "runs.parquet", "curves.parquet", "savings.parquet", "shallow.parquet"}
FILES |= {"overlap.parquet", "files.parquet"}
# without the parts that take long to draw
BARE = {"savings": False, "shallow": False, "overlap": False}


@pytest.fixture(scope="module")
def whole(lottery_folder: Folder) -> Path:
    """The report of a run of everything."""
    return lottery.write(lottery_folder(**SMALL))


def test_a_whole_report_stands_alone(read_page: Reader, whole: Path) -> None:
    assert whole.name == "report.html"
    page = read_page(whole)
    assert page.sections == SECTIONS
    assert "<script" not in page.source
    assert "@import" not in page.source
    links = {value for tag, name, value in page.attributes if name in ("src", "href", "xlink:href")}
    outside = {link for link in links if not link.startswith("#")}
    assert outside == {"https://arxiv.org/abs/1803.03635"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r"url\(#([^)]+)\)", page.source)) | {link[1:] for link in links - outside}
    assert targets
    assert targets <= set(ids)
    drawings = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(drawings) == 21
    assert all(len(words) > 20 for words in drawings)


def test_colours_of_the_page_are_defined(whole: Path) -> None:
    source = whole.read_text(encoding="utf-8")
    light, dark = re.search(r":root\{(.*?)\}\n@media[^{]*\{:root\{(.*?)\}\}", source).groups()  # type: ignore[union-attr]
    for name in set(re.findall(r"var\((--[\w-]+)\)", source)):
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_else(whole: Path) -> None:
    first = whole.read_bytes()
    whole.write_text("an older page")
    assert lottery.write(whole.parent).read_bytes() == first
    assert {path.name for path in whole.parent.iterdir()} == FILES | {"figures", "report.html"}


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"methods": ("dense", "imp", "reinit")}, {"random", "controls"}),
        ({"methods": ("dense",)}, {"headline", "training", "levels", "random", "controls"}),
        ({"methods": ("dense", "snip")}, {"headline", "training", "levels", "random"}),
        ({"methods": ("imp", "random")}, {"controls"}),
        ({"methods": ("dense", "imp"), "savings": True, "levels": (2,)}, {"random", "controls"}),
        ({"methods": ("dense",), "architecture": "conv2"}, {"headline", *SECTIONS[1:5]}),
        ({"methods": ("dense",), "architecture": "another"}, {"headline", *SECTIONS[1:5]}),
    ],
)
def test_a_report_of_part_of_the_results(
    read_page: Reader, lottery_folder: Folder, options: dict[str, Any], absent: set[str]
) -> None:
    options = SMALL | BARE | options
    absent = absent | {name for name in BARE if not options[name]}
    page = read_page(lottery.write(lottery_folder(**options)))
    assert page.sections == [name for name in SECTIONS if name not in absent]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text)
    assert "<p></p>" not in page.source


def test_one_trial_has_no_range(read_page: Reader, lottery_folder: Folder) -> None:
    text = read_page(lottery.write(lottery_folder(**SMALL | BARE, methods=("dense", "imp"), trials=1))).text
    assert "One trial only, so no range is known." in text
    assert "shaded bands" not in text
    assert "Medians over" not in text


def test_a_bare_manifest_is_enough(read_page: Reader, lottery_folder: Folder) -> None:
    keys = ("weights", "layers", "timings", "seconds", "versions", "machine", "date", "commit")
    bare: dict[str, Any] = dict.fromkeys(keys)
    bare["dataset"] = {"name": "digits"}
    bare["preset"] = {"name": "lenet", "architecture": "lenet", "recipe": {"iterations": 3000}}
    page = read_page(
        lottery.write(lottery_folder(**SMALL | BARE, methods=("dense", "imp"), manifest_changes=bare))
    )
    assert "None" not in page.text
    assert "Ours: digits, 3,000 iterations, 3 trials." in page.text
    assert "Other data and fewer iterations than the paper’s" in page.text


def test_text_of_the_folder_is_escaped(read_page: Reader, lottery_folder: Folder) -> None:
    evil = '<script>alert("&$x$")</script>'
    changes: dict[str, Any] = dict.fromkeys(("title", "command", "date", "commit"), evil)
    changes |= {"timings": {evil: 1.0}, "versions": {evil: evil}, "machine": {evil: evil}}
    changes["dataset"] = {"name": evil}
    changes["preset"] = {
        "name": evil,
        "architecture": evil,
        "recipe": {"optimizer": evil, "iterations": 9, evil: evil},
    }
    changes["layers"] = [{"level": 0, "kept": {evil: 3}}]
    folder = lottery_folder(**SMALL | BARE, methods=("dense", "imp", evil), manifest_changes=changes)
    page = read_page(lottery.write(folder))
    assert "<script" not in page.source
    assert page.text.count(evil) >= 12


def test_a_malformed_folder_leaves_an_older_page_alone(lottery_folder: Folder) -> None:
    folder = lottery_folder(**SMALL, methods=("dense", "imp"))
    (folder / "report.html").write_text("an older page")
    (folder / "curves.parquet").write_text("torn")
    with pytest.raises(ValueError, match=r"curves\.parquet is not a whole parquet file"):
        lottery.write(folder)
    assert (folder / "report.html").read_text() == "an older page"
    assert not (folder / "figures").exists()


def test_the_layers_are_counted(lottery_folder: Folder) -> None:
    html = tables.layers(load(lottery_folder(**SMALL, methods=("dense", "imp"))))
    assert "<td>235,200<small>100 %</small></td><td>30,000<small>100 %</small></td>" in html
    assert "<td>120,422<small>51.2 %</small></td>" in html  # 235,200 times 0.8³
    assert "<td>729<small>72.9 %</small></td>" in html  # 1,000 times 0.9³


def test_what_is_saved_is_told_either_way(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL, methods=("dense", "imp", "reinit")))
    text = lottery.page.render(results, {})
    assert results.files is not None
    last = results.files["level"] == results.files["level"].max()
    sizes = dict(zip(results.files["file"][last], results.files["bytes"][last], strict=True))
    ratio = sizes["mask and values"] / sizes["dense"]
    assert f"the smallest file, mask and values, takes {ratio:.2g} × the bytes of the dense one" in text
    assert "The fastest form, compacted, takes" in text
    assert results.savings is not None
    results.savings["seconds"][results.savings["form"] != "dense"] = 10.0
    page = lottery.page.render(results, {})
    assert "No form is faster than the dense network beyond the noise of these timings (0%)" in page


@pytest.mark.parametrize(
    ("value", "ratio", "unit", "cell"),
    [
        (1.06e6, 1.0, "B", "1.06 MB<small>1 ×</small>"),
        (4.5e-5, 0.45, "s", "45 µs<small>0.45 ×</small>"),
        (0.0, float("nan"), "s", "0 s"),
        (float("nan"), 1.0, "s", "–"),
        (532.0, float("nan"), "", "532 "),
    ],
)
def test_amounts(value: float, ratio: float, unit: str, cell: str) -> None:
    assert tables._amount(value, ratio, unit) == cell
