import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from qrt_tn.studies.config import Study
from qrt_tn.studies.report.study import figures, page, write
from tests.scaling_studies.report.study.conftest import DEVICE, ROOFED, failure, record, records, study_of

EVIL = '</pre><script>alert("x")</script> & $a_b$ <i>'
TEXT = """
# a comment of the file with <b> in it
name = "whole"
title = "Time & memory <of> everything"
description = "What it asks & why."
experiment = "roofed"
seeds = 3
[axes]
size = [2, 4, 8, 16]
backend = ["numpy", "jax"]
dtype = ["complex64", "<complex & 128>"]
[fixed]
widths = [7, 8]
[[figures]]
title = "Time <fitted>"
x = "size"
y = "seconds"
series = "dtype"
panels = "backend"
scale = "log-log"
fit = "power"
note = "A note with <tags>."
[[figures]]
title = "Pooled"
x = "size"
y = "error"
[[figures]]
title = "Speed-up"
kind = "ratio"
x = "size"
y = "seconds"
series = "backend"
reference = { size = 2 }
ideal = "x"
[[figures]]
title = "Needed"
kind = "reach"
x = "backend"
y = "error"
of = "size"
level = 5.0
goal = "below"
[[figures]]
title = "Roofline"
kind = "roofline"
series = "backend"
[[figures]]
title = "Empty"
x = "size"
y = "seconds"
where = { dtype = "none such" }
"""
VOID = {"meta", "br", "link", "img", "use", "path", "rect"}


class Tags(HTMLParser):
    """Whether every tag is closed in order, and what is in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        while self.open and self.open[-1] != tag and self.open[-1] == "li":
            self.open.pop()
        assert self.open
        assert self.open.pop() == tag


def checked(path: Path) -> str:
    """The page's text, after a look at its tags: whole, no script, no request."""
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "iframe", "img", "link", "object"}
    assert all(link.startswith("#") for link in tags.links)
    assert "url(http" not in text
    for svg in (path.parent / "figures").iterdir():
        ET.parse(svg)
    return text


def words(text: str) -> str:
    """What a page says, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", " ", text, flags=re.DOTALL)).split())


def numbers(p, seed: int) -> dict[str, float]:
    rate = 1e9 * (2 if p["backend"] == "jax" else 1)
    seconds = p["size"] ** 1.5 / 1e3 * (1 + 0.1 * seed)
    return {
        "flops": rate * seconds,
        "bytes_moved": 1e6 * p["size"],
        "seconds": seconds,
        "peak_flops": 1e11,
        "bandwidth": 1e10,
        "error": 12 / p["size"] + 0.1 * seed,
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(TEXT, ROOFED)


def test_a_whole_study(tmp_path: Path, study: Study) -> None:
    path = write(study, tmp_path / "new", records(study, numbers), [], commands=["qrt-tn study run a&b.toml"])
    text = checked(path)
    said = words(text)
    assert path == tmp_path / "new" / "report.html"
    assert "<h1>Time &amp; memory &lt;of&gt; everything</h1>" in text
    assert "All 48 points are done." in said
    assert "qrt-tn study run a&amp;b.toml" in text
    assert "# a comment of the file with &lt;b&gt; in it" in text
    assert "A note with &lt;tags&gt;." in text
    assert "∝ size<sup>1.50</sup> (1.50 to 1.50)" in text
    assert "Medians of time over 3 seeds at each linear size" in said
    assert "3 seeds and over backend and dtype (12 points each)" in said
    assert "Beware: medians run over different values of backend and dtype" in said
    assert "No point of this study has dtype = none such." in said
    assert "Fixed parameters" in said
    assert "[7, 8]" in said
    assert "Share" in said
    assert "kinds of machines" not in said
    assert 'id="failed"' not in text
    names = sorted(file.name for file in (path.parent / "figures").iterdir())
    assert names == [
        "01-time-fitted-1.svg",
        "01-time-fitted-2.svg",
        "02-pooled.svg",
        "03-speed-up.svg",
        "04-needed.svg",
        "05-roofline.svg",
    ]
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_the_same_records_in_another_order_give_the_same_bytes(tmp_path: Path, study: Study) -> None:
    made = records(study, numbers)
    one = write(study, tmp_path / "one", made, [], commands=[])
    two = write(study, tmp_path / "two", made[::-1], [], commands=[])
    assert one.read_bytes() == two.read_bytes()


def test_a_study_under_way(tmp_path: Path, study: Study) -> None:
    made = records(study, numbers, study.points[:20])
    broken = [
        failure(study, study.points[20], f"out of memory at step 17: {EVIL}", traceback=f"{EVIL}\n" * 40),
        failure(study, study.points[21], f"out of memory at step 18: {EVIL}"),
        failure(study, study.points[22], "took longer than 5 minutes", "timeout", traceback=None),
        failure(study, study.points[23], "CuPy is not here; pip install qrt-tn[cuda13]", "unavailable"),
        failure(study, study.points[0], "failed first, done since"),
        failure(study, study.points[1], "of an older file", id="e" * 20),
    ]
    text = checked(write(study, tmp_path, made, broken, commands=[]))
    said = words(text)
    assert "20 of 48 points are done (41.7 %). This report shows what is there so far." in said
    assert "3 failed" in said
    assert "1 could not run here" in said
    assert "24 still missing" in said
    assert "2 points , raised an error: out of memory at step 17" in said
    assert "the others say the same with other numbers" in said
    assert f"logs/{study.points[20].id[:2]}/{study.points[20].id}.log" in said
    assert "One point , ran out of time: took longer than 5 minutes" in said
    assert "pip install qrt-tn[cuda13]" in said
    assert "For example size = 4, backend = jax, dtype = complex64, seed = 2" in said
    assert "failed first" not in said
    assert "One more result is of an earlier version" in said
    assert "So far 20 of 48 points are in." in said
    assert text.count("alert(") == 1 + 15  # the reason, and the last lines of the traceback


def test_no_records_at_all(tmp_path: Path, study: Study) -> None:
    text = checked(write(study, tmp_path, [], [], commands=["a"]))
    assert "0 of 48 points are done." in words(text)
    assert words(text).count("Nothing to draw.") == 6
    assert list((tmp_path / "figures").iterdir()) == []


def test_machines_commits_and_versions_that_are_mixed_are_warned_of(tmp_path: Path, study: Study) -> None:
    made = []
    for point in study.points:
        jax = point.parameters["backend"] == "jax"
        made.append(
            record(
                study,
                point,
                numbers(point.parameters, point.seed),
                device=DEVICE | {"processor": f"CPU <{point.seed % 2}>"},
                commit=("b" if jax else "a") * 40,
                versions={"numpy": "2.4", "jax": "0.11" if jax else "0.10"},
                wall_seconds=10.0,
            )
        )
    said = words(checked(write(study, tmp_path, made, [], commands=[])))
    assert (
        "2 kinds of machines within one line: CPU &lt;0&gt; (32 points) and CPU &lt;1&gt; (16 points)" in said
    )
    speed = said[said.index("Speed-up") : said.index("Needed")]
    assert "2 commits, one to each line" in speed
    assert "versions differ: jax 0.10 and 0.11" in said
    assert "wall time of all points 8 min" in said
    # the error is not measured: another machine is no trap for it, another commit is
    pooled = said[said.index("Pooled") : said.index("Speed-up")]
    assert "kinds of machines" not in pooled
    assert "2 commits within one line" in pooled


def test_a_report_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, tmp_path, records(study, numbers), [], commands=["first"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    for place, name in ((page, "render"), (figures, "draw_plot"), (figures, "draw_roofline")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match="no space"):
                write(study, tmp_path, records(study, numbers)[:9], [], commands=["second"])
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_figures_of_an_older_report_go(tmp_path: Path, study: Study) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "99-old.svg").write_text("<svg/>")
    (tmp_path / "figures" / "mine.txt").write_text("kept")
    write(study, tmp_path, [], [], commands=[])
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.txt"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, study: Study) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        write(study, tmp_path / "file", [], [], commands=[])


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    text = (
        'name = "l"\nexperiment = "rehearsal"\n[axes]\nnumber = { range = [1, 400], step = 1 }\n'
        '[[figures]]\ntitle = "long"\nx = "number"\ny = "value"'
    )
    long = study_of(text)
    said = words(checked(write(long, tmp_path, records(long, lambda p, s: {"value": 0.5}), [], commands=[])))
    assert "300 of 400 settings" in said
    assert "Of a line of 400 places 300 are drawn." in said
    assert "1, 2, 3, … 400" in said


def test_a_study_that_varies_nothing(tmp_path: Path) -> None:
    one = study_of(
        'name = "o"\nexperiment = "rehearsal"\n[[figures]]\ntitle = "☃ 漢字 \\u0001"\n'
        'x = "number"\ny = "value"'
    )
    made = records(one, lambda p, seed: {"value": 0.25})
    text = checked(write(one, tmp_path, made, [], commands=[]))
    assert "☃ 漢字 �" in text
    assert "over one seed" in words(text)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_missing_the_page_is_made(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["size", "backend", "dtype", "widths", "seconds", "bond", "error", "wall_seconds", "seed"]
    labels = [EVIL, "漢字 😀", "a" * 200, ""]
    parts = [
        f'name = "f"\nexperiment = "roofed"\nseeds = {rng.integers(1, 4)}\n[axes]\nsize = [0, -3, 5, 7]\n'
        f"widths = [[1], [2, 3]]\nbackend = {labels[:2]!r}\ndtype = {labels[1:]!r}".replace("'", "'''")
    ]
    for _ in range(7):
        kind = rng.choice(["lines", "ratio", "reach", "roofline"])
        x, y = rng.choice(names), rng.choice(names)
        parts.append(
            f'[[figures]]\ntitle = \'{kind} <{x}>\'\nkind = "{kind}"\nx = "{x}"\ny = "{y}"\nlevel = 1.0\n'
            f'scale = "{rng.choice(["linear", "log-x", "log-y", "log-log"])}"\n'
            f'of = "{rng.choice(names[:4])}"\n'
            f'fit = "{rng.choice(["none", "power"])}"\nideal = "{rng.choice(["none", "one", "x"])}"\n'
            f'goal = "{rng.choice(["above", "below"])}"\nreference = {{ size = {rng.choice([0, 5, 9])} }}'
        )
        if rng.random() < 0.6:
            parts.append(f'series = "{rng.choice([*names[:4], "seed"])}"')
        if rng.random() < 0.6:
            parts.append(f'panels = "{rng.choice(names[:4])}"')
    study = study_of("\n".join(parts), ROOFED)
    made = []
    for point in study.points:
        if rng.random() < 0.7:
            drawn = {name: float(rng.normal()) * 10.0 ** rng.integers(-9, 9) for name in ROOFED.metrics}
            kept = {name: None if rng.random() < 0.3 else value for name, value in drawn.items()}
            made.append(record(study, point, kept, device=None, versions=None, commit=None, peak_bytes=None))
    checked(write(study, tmp_path, made, [], commands=[EVIL]))
