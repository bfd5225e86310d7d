"""The figures of a study's report: SVG files, captions, and in place of a figure without data, why."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.drawing import draw_panels
from qrt_tn.studies.report.html import figure as framed
from qrt_tn.studies.report.html import side_by_side
from qrt_tn.studies.report.study import captions, curves, tables
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.panels import draw_plot
from qrt_tn.studies.report.study.plots import Plot
from qrt_tn.studies.report.study.quantities import said
from qrt_tn.studies.report.study.reach import reach
from qrt_tn.studies.report.study.roof_panels import draw_roofline
from qrt_tn.studies.report.study.roofline import Roofline, roofline

_KINDS = {"lines": curves.lines, "ratio": curves.ratio, "reach": reach}


@dataclass(frozen=True)
class Made:
    """A figure of the study with what it shows.

    Attributes:
        figure: what was asked.
        name: of its files, without the panel's number.
        rows: of its table.
        shown: what came out.
    """

    figure: Figure
    name: str
    rows: Finished
    shown: Plot | Roofline

    @property
    def plot(self) -> Plot:
        """Lines and remarks."""
        return self.shown.plot if isinstance(self.shown, Roofline) else self.shown

    def file(self, panel: int) -> str:
        """Of a panel, without its suffix."""
        return f"{self.name}-{panel + 1}" if len(self.shown.panels) > 1 else self.name


def make(finished: Finished) -> list[Made]:
    """What each figure of the study shows."""
    made = []
    for place, figure in enumerate(finished.study.figures):
        slug = re.sub(r"[^a-z0-9]+", "-", figure.title.lower()).strip("-")[:40].strip("-")
        rows = finished.of(figure.table or next(iter(finished.study.experiment.tables)))
        shown = roofline(rows, figure) if figure.kind == "roofline" else _KINDS[figure.kind](rows, figure)
        made.append(Made(figure, f"{place + 1:02d}-{slug}".strip("-"), rows, shown))
    return made


def draw(made: list[Made], place: Path) -> dict[str, Path]:
    """Draw all panels into a folder; the same records give the same bytes.

    Returns:
        The SVG files by name.
    """
    with warnings.catch_warnings():
        # the page's own font has the letters that this one lacks
        warnings.filterwarnings("ignore", r"Glyph \d+")
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support")
        return draw_panels(place, _panels(made))


def _panels(made: list[Made]) -> Iterator[tuple[str, Drawing]]:
    for one in made:
        if isinstance(one.shown, Roofline):
            drawings = draw_roofline(one.shown, one.figure) if one.shown.panels else []
        else:
            drawings = draw_plot(one.shown, one.figure) if one.shown.panels else []
        for panel, drawing in enumerate(drawings):
            yield one.file(panel), drawing


def as_html(finished: Finished, made: Made, drawn: dict[str, Path]) -> str:
    """A figure with title, panels and caption."""
    title = f"<h3>{escape(said(made.figure.title, 200))}</h3>"
    if not made.shown.panels:
        return f"{title}\n{_nothing(finished, made)}"
    framed_panels = []
    for place, (value, shown) in enumerate(made.shown.panels):
        if isinstance(made.shown, Roofline):
            caption = (
                f"<b>{escape(f'{made.figure.panels} = {said(value)}')}.</b>" if made.figure.panels else ""
            )
        else:
            caption = captions.of_panel(made.figure, value, shown, made.shown)  # type: ignore[arg-type]
        words = f"{made.figure.title}: {made.plot.y.label} against {made.plot.x.label}."
        framed_panels.append(framed(drawn, made.file(place), words, caption))
    if isinstance(made.shown, Roofline):
        text = captions.of_roofline(made.rows, made.figure, made.shown)
        beside = tables.roofs(made.rows, made.figure, made.shown)
    else:
        text, beside = captions.of_plot(made.rows, made.figure, made.shown), ""
    return f'{title}\n{side_by_side(*framed_panels)}\n<p class="note">{text}</p>\n{beside}'


def _nothing(finished: Finished, made: Made) -> str:
    """Why there is no figure."""
    remarks = " ".join(map(escape, made.plot.remarks))
    if not remarks:
        remarks = "None of its points is finished yet." if made.plot.asked else ""
    elif not len(finished):
        remarks = f"None of its points is finished yet. {remarks}" if made.plot.asked else remarks
    return f'<p class="nothing">Nothing to draw. {remarks}</p>'
