"""One self-contained report.html from the records of a study: no script, no request, and it prints well."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from qrt_tn.studies.config import Study
from qrt_tn.studies.experiments.catalogue import POINTS
from qrt_tn.studies.report.html import details, facts, number, page, section, write_page
from qrt_tn.studies.report.study import figures, tables
from qrt_tn.studies.report.study.failures import Failed, failures, unavailable
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.origin import origin
from qrt_tn.studies.report.study.quantities import said


def write(
    study: Study,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    *,
    commands: Sequence[str],
) -> Path:
    """Draw a study's figures and write its report, whole or not at all.

    Args:
        study: what was asked.
        folder: gets report.html and figures/*.svg; made if it is not there.
        records: of finished points, in any order; those of no point of the study are only counted.
        failures: of failed points; those of points that are done by now do not count.
        commands: that reproduce it, one a line.

    Returns:
        The path of report.html.

    Raises:
        ValueError: the folder is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the report")
    folder.mkdir(parents=True, exist_ok=True)
    finished = Finished(study, records)
    failed = Failed(study, failures, {record["id"] for record in finished.records})
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".figures."))
    try:
        made = figures.make(finished)
        drawn = figures.draw(made, aside)
        text = render(finished, failed, made, drawn, commands)
        # nothing of an older report is touched before this one is complete
        target = folder / "figures"
        target.mkdir(exist_ok=True)
        for path in drawn.values():
            path.replace(target / path.name)
        written = write_page(folder, text)
        names = {path.name for path in drawn.values()}
        for old in target.glob("*.svg"):
            if old.name not in names:
                old.unlink()
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def render(
    finished: Finished,
    failed: Failed,
    made: Sequence[figures.Made],
    drawn: dict[str, Path],
    commands: Sequence[str],
) -> str:
    """The page.

    Args:
        finished: the points that are done.
        failed: those that are not, and why.
        made: what each figure shows.
        drawn: SVG files by name.
        commands: that reproduce the study.
    """
    study = finished.study
    latest = max((str(record.get("finished") or "") for record in finished.records), default="") or None
    sections = (
        _header(study),
        section(
            "asked",
            "What was asked",
            f"<p>Experiment <b>{escape(study.experiment.name)}</b>: {escape(study.experiment.summary)}.</p>",
            tables.asked(finished),
        ),
        _progress(finished, failed),
        _figures(finished, made, drawn),
        _medians(finished),
        failures(study, failed),
        unavailable(study, failed),
        origin(finished, latest),
        _reproduce(study, commands),
    )
    # what a log or a file name brought in and no encoding holds must not cost the page
    return page(f"{study.title} · study", sections, _RULES).encode("utf-8", "replace").decode("utf-8")


def _header(study: Study) -> str:
    paragraphs = [" ".join(part.split()) for part in study.description.split("\n\n")]
    text = "".join(f'<p class="lede">{escape(part)}</p>\n' for part in paragraphs if part)
    pairs = [("study", escape(study.name)), ("experiment", escape(study.experiment.name))]
    pairs.append(("points", number(len(study.points))))
    varied = f"{', '.join(study.varied)}" or "nothing"
    pairs.append(("varied", escape(said(varied, 120))))
    pairs.append(("seeds", number(len({point.seed for point in study.points}))))
    quick = " · quick variant" if study.quick else ""
    return (
        f'<header>\n<p class="kicker">QRT-TN · study{quick}</p>\n<h1>{escape(said(study.title, 200))}</h1>\n'
        f"{text}{facts(pairs)}\n</header>"
    )


def _progress(finished: Finished, failed: Failed) -> str:
    """How many points are done, failed, unavailable and missing, as numbers and as a bar."""
    total, done = len(finished.study.points), len(finished)
    broken, absent = failed.count(unavailable=False), failed.count(unavailable=True)
    missing = total - done - broken - absent
    parts = (
        ("done", done, "done"),
        ("failed", broken, "failed"),
        ("absent", absent, "could not run here"),
        ("missing", missing, "still missing"),
    )
    bar = "".join(f'<i class={kind} style="flex:{count}"></i>' for kind, count, _ in parts if count)
    key = "".join(
        f"<li><i class={kind}></i><b>{number(count)}</b> {name}</li>" for kind, count, name in parts
    )
    text = (
        f"All {number(total)} points are done."
        if done == total
        else f"{number(done)} of {number(total)} points are done"
        + (f" ({100 * done / total:.3g} %)." if done else ".")
    )
    if missing and done:
        text += " This report shows what is there so far."
    earlier = finished.earlier + failed.earlier
    more = "One more result is" if earlier == 1 else f"{number(earlier)} more results are"
    note = (
        f'<p class="note">{more} of an earlier version of this study, and not shown.</p>' if earlier else ""
    )
    return section(
        "progress",
        "How far it is",
        f"<p>{text}</p>",
        f'<div class="progress" role="img" aria-label="{escape(text)}">{bar}</div>',
        f'<ul class="key">{key}</ul>',
        note,
    )


def _figures(finished: Finished, made: Sequence[figures.Made], drawn: dict[str, Path]) -> str:
    shown = [figures.as_html(finished, one, drawn) for one in made]
    if not shown:
        shown = ['<p class="note">The study file asks for no figures; add [[figures]] to it.</p>']
    return section("figures", "Figures" if len(shown) != 1 else "Figure", *shown)


def _medians(finished: Finished) -> str:
    listed = [
        details("Table" if name == POINTS else f"Table {name}", "every setting and metric", shown)
        for name, table in finished.study.experiment.tables.items()
        if (shown := tables.medians(finished.of(name), table.metrics))
    ]
    if not listed:
        return ""
    text = "<p>Medians over the seeds of every setting; beside them the least and the greatest.</p>"
    return section("numbers", "All metrics", text, *listed)


def _reproduce(study: Study, commands: Sequence[str]) -> str:
    given = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return section(
        "reproduce",
        "How to reproduce it",
        given,
        '<p class="note">The figures are SVG files in figures/ beside this page.</p>',
        details("The study file", escape(study.name), f"<pre>{escape(study.text)}</pre>"),
    )


# What this page adds to the style sheet that all reports share.
_RULES = """
#figures h3{margin-top:2.2rem}#figures>h2+h3{margin-top:1rem}
.figures figure:only-child{max-width:36rem}figcaption:empty{display:none}
#figures>.note{max-width:46rem}
.beware{color:var(--filter)}
.nothing{font-size:.95rem;border:1px dashed var(--rule);border-radius:10px;padding:.9rem 1.1rem;
  color:var(--muted)}
.progress{display:flex;height:.8rem;border-radius:4px;overflow:hidden;background:var(--rule);max-width:42rem;
  margin:.2rem 0 .8rem}
.progress i{min-width:2px}.key b{color:var(--ink)}
i.done{background:var(--random-features)}i.failed{background:var(--imp)}i.absent{background:var(--random-features);
  opacity:.35}i.missing{background:var(--rule)}
.reason{border-left:3px solid var(--rule);padding-left:1rem;margin:1.1rem 0}.reason p{margin-bottom:.3rem}
.reason small{color:var(--muted)}
.reason p,.nothing,h1,h3,.lede,.facts{overflow-wrap:anywhere}
.asked td:last-child{text-align:left;white-space:normal;min-width:12rem}
td small{white-space:nowrap}code{font-size:.92em;overflow-wrap:anywhere}
"""
