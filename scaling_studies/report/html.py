"""The pieces that a report page is made of: numbers, tables, figures, sections, as HTML strings."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.report.style import in_page_colours, style_sheet

MISSING = "–"
PREFIXES = tuple(
    (10.0 ** (15 - 3 * place), prefix)
    for place, prefix in enumerate(("P", "T", "G", "M", "k", "", "m", "µ", "n"))
)


def number(value: Any, digits: int | None = None, *, signed: bool = False) -> str:
    """A number as text.

    Args:
        value: an int (1,797), a float, or None or NaN (a dash).
        digits: decimals of a float; none from 100 on, and significant digits instead where fewer than
            two would show. Left out, the float to six digits.
        signed: write a plus before a positive float.
    """
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return MISSING
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    plus = "+" if signed else ""
    if digits is None:
        text = f"{value:{plus}g}"
    elif abs(value) >= 100:
        text = f"{value:{plus},.0f}"
    elif value == 0 or 10.0 ** (1 - digits) <= abs(value):
        text = f"{value:{plus}.{digits}f}"
    else:
        text = f"{value:{plus}.{digits}g}"
    return text.replace("-", "−")


def amount(value: float, unit: str) -> str:
    """A number with a prefix and its unit, to three digits: 1.23 MB."""
    if not np.isfinite(value):
        return MISSING
    # 999.9 k is 1 M to three digits
    fitting = ((scale, prefix) for scale, prefix in PREFIXES if abs(value) >= 0.9995 * scale)
    scale, prefix = next(fitting, PREFIXES[-1] if value else (1.0, ""))
    return f"{value / scale:.3g} {prefix}{unit}"


def span(low: float, high: float) -> str:
    """A range of scores, or nothing where it has no extent."""
    return f"{number(low, 3)}–{number(high, 3)}" if low != high else ""


def join(parts: Sequence[str], last: str = " and ") -> str:
    """The parts as a list in a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}{last}{parts[-1]}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """An HTML table of HTML cells that scrolls sideways where it is too wide for the page.

    Args:
        head: column names; none for a table without a head.
        rows: cells; the first of each row names it.
        texts: how many columns, from the left, are text and not numbers.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [" class=text" if column < texts else "" for column in range(len(cells))]
        inside = "".join(f"<{tag}{mark}>{cell}</{tag[:2]}>" for mark, cell in zip(marks, cells, strict=True))
        return f"<tr>{inside}</tr>\n"

    top = f"<thead>{line(head, 'th scope=col')}</thead>" if head else ""
    body = "".join(line(cells, "td") for cells in rows)
    return f'<div class="scroll" tabindex="0"><table>{top}<tbody>\n{body}</tbody></table></div>'


def details(title: str, aside: str, content: str) -> str:
    """A part of the page that opens on demand; nothing where there is no content."""
    if not content:
        return ""
    return f"<details><summary>{title} <span>{aside}</span></summary>\n{content}\n</details>"


def section(identity: str, title: str, *parts: str) -> str:
    """A section of the page; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{identity}">\n<h2>{title}</h2>\n{body}\n</section>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values (HTML) in a line that wraps."""
    items = "".join(f"<li>{name} <b>{value}</b></li>" for name, value in pairs)
    return f'<ul class="facts">{items}</ul>'


def side_by_side(*panels: str) -> str:
    """Figures beside each other where the page is wide enough, else stacked; nothing if there are none."""
    shown = "\n".join(panel for panel in panels if panel)
    return f'<div class="figures">\n{shown}\n</div>' if shown else ""


def figure(drawn: dict[str, Path], name: str, alternative: str, caption: str) -> str:
    """A drawn figure with its caption; nothing if it was not drawn.

    Args:
        drawn: SVG files by name.
        name: which one.
        alternative: what it shows, in plain text, for those who do not see it.
        caption: HTML.
    """
    if name not in drawn:
        return ""
    svg = inline_svg(drawn[name].read_text(encoding="utf-8"), name, alternative)
    return f"<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"


def inline_svg(text: str, name: str, alternative: str) -> str:
    """An SVG file as an element of the page: ids unique to it, colours the page's, as wide as its column."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    text = f'{head} role="img" aria-label="{escape(alternative)}">{rest}'.strip()

    def own(tag: re.Match[str]) -> str:
        """A tag with ids unique to this figure; what the figure writes as text stays as it is."""
        found = re.sub(r'\bid="([^"]+)"', rf'id="{name}.\1"', tag[0])
        return in_page_colours(re.sub(r'(href="|url\()#', rf"\1#{name}.", found))

    return re.sub(r"<[^<>]*>", own, text)


def page(title: str, sections: Sequence[str], rules: str = "") -> str:
    """A whole page: no script, no request, and it prints well.

    Args:
        title: plain text.
        sections: HTML; empty ones are left out.
        rules: CSS on top of that of all reports.
    """
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{style_sheet()}{rules}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def write_page(folder: Path, text: str) -> Path:
    """Write report.html into a folder, replacing an older one whole."""
    target = folder / "report.html"
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target
