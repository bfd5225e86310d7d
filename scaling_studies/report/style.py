"""The look of a report: one colour, line and name per method in every figure, and the page's style sheet."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Neutral tones of the figures; on the page each stands for a variable that turns with light and dark.
INK = "#1d2126"
MUTED = "#656c76"
RULE = "#d9dce1"
PAPER = "#fffffe"
# Signs of a frequency. Middle tones over a transparent zero, so that they need no second set for the dark.
NEGATIVE = "#2f7fd0"
POSITIVE = "#e0702a"


@dataclass(frozen=True)
class MethodStyle:
    """How one method is named and drawn.

    Colours follow Okabe and Ito's colour-blind-safe set, darkened for text on white; dashes and markers
    tell the methods apart without colour.
    """

    label: str
    colour: str
    dark: str
    dashes: str | tuple[int, tuple[float, ...]] = "-"
    marker: str = "o"
    width: float = 1.5


METHODS = {
    "residual": MethodStyle("tempered residual", "#0a5ba8", "#74b5ff", "-", "o", 2.4),
    "qrt": MethodStyle("QRT", "#7a3fb5", "#c79bff", "-", "P"),
    "random-features-greedy": MethodStyle("greedy features", "#4a7a16", "#a3d665", (0, (4, 1.5)), "v"),
    "linear": MethodStyle("linear", "#8a6d00", "#d9c04a", (0, (1, 1.2))),
    "forest": MethodStyle("random forest", "#8c4a2f", "#d99b7c", (0, (1, 1.2))),
    "svm": MethodStyle("RBF SVM", "#a0416e", "#e793bb", (0, (1, 1.2))),
    "boosting": MethodStyle("boosted trees", "#4f6472", "#a9bcc9", (0, (1, 1.2))),
    "qrt-smoothed": MethodStyle("QRT, smoothed", "#0a5ba8", "#74b5ff", "-", "o", 2.4),
    "filter": MethodStyle("filter alone", "#b84a00", "#ff9d57", "-", "s"),
    "random-features": MethodStyle("random features", "#00795a", "#41d0a5", "-", "^"),
    "dense": MethodStyle("dense network", "#2e3136", "#e4e6ea", (0, (5, 2)), "D"),
    "qrt-unsmoothed": MethodStyle("QRT, unsmoothed", "#3a86ad", "#8fd0ea", (0, (2, 1.5)), "v"),
    "uniform": MethodStyle("uniform nodes", "#767676", "#a9a9a9", (0, (1, 1.2)), "x"),
    # lottery tickets and their controls
    "imp": MethodStyle("winning ticket", "#b0124a", "#ff7da6", "-", "o", 2.4),
    "reinit": MethodStyle("reinitialised", "#a66300", "#f5b44c", (0, (4, 1.6)), "s"),
    "random": MethodStyle("random mask", "#5a6b80", "#a5b5c9", (0, (1, 1.2)), "x"),
    "oneshot": MethodStyle("one shot", "#0e7369", "#4fd1c2", "-", "^"),
    "oneshot-reinit": MethodStyle("one shot, reinit.", "#4c8a83", "#9ad9d1", (0, (4, 1.6)), "v"),
    "magnitude-init": MethodStyle("small at the start", "#857000", "#dcc64a", (0, (5, 1.5, 1, 1.5)), "D"),
    "snip": MethodStyle("SNIP", "#2f62cf", "#8db1ff", "-", "^"),
    "synflow": MethodStyle("SynFlow", "#7a3cc2", "#c79bff", "-", "P"),
    "sign-reinit": MethodStyle("only signs kept", "#c2408c", "#ff9bd5", (0, (3, 1.4)), "v"),
    # shallow networks, nodes drawn or pruned
    "qrt-teacher": MethodStyle("QRT of a teacher", "#0b7f9e", "#5fd0ee", "-", "P"),
    "qrt-ridge": MethodStyle("QRT, ridge state", "#4d55b8", "#a7aeff", (0, (3, 1.3)), "v"),
    "leverage": MethodStyle("leverage scores", "#4a7a16", "#a3d665", "-", "^"),
    "imp-nodes": MethodStyle("pruned nodes", "#b31b57", "#ff86b3", "-", "o", 2.0),
    "imp-nodes-random": MethodStyle("nodes left at random", "#a4637e", "#dfa3bb", (0, (1, 1.2)), "x"),
    "imp-nodes-rewound": MethodStyle("pruned, rewound", "#d1491f", "#ff9c78", (0, (4, 1.5)), "s"),
    "imp-weights": MethodStyle("pruned weights", "#8331a8", "#d592f5", (0, (5, 1.5, 1, 1.5)), "D"),
}
TRAININGS = {
    "fitted": "output weights fitted",
    "trained": "everything trained",
}


def method_style(method: str) -> MethodStyle:
    """The style of a method; one that is not known here is named as it is and drawn in grey."""
    return METHODS.get(method, MethodStyle(method, MUTED, "#9aa3ae"))


def training_name(training: str) -> str:
    """How a way of training is called in running text."""
    return TRAININGS.get(training, training)


# Text stays text (a browser's own font, small files, words that can be searched); ids depend on the
# drawing alone, so that the same folder gives the same bytes.
FIGURE_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qrt-tn",
    "font.family": "DejaVu Sans",
    "font.size": 9.4,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titleweight": "bold",
    "axes.titlepad": 13,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "lines.solid_capstyle": "round",
}


def decades(axes: Axes) -> None:
    """Powers of ten on the vertical axis, in plain figures."""
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    axes.yaxis.set_minor_locator(NullLocator())


def legend(axes: Axes) -> None:
    """A legend in the colours of its lines, where anything is named."""
    if axes.get_legend_handles_labels()[0]:
        drawn = axes.legend(loc="best", fontsize=9, labelcolor="linecolor", handlelength=1.3, borderpad=0.3)
        drawn.get_frame().set(facecolor=PAPER, edgecolor="none", alpha=0.85)


def panel(*, left: float = 0.125, right: float = 0.97) -> tuple[Figure, Axes]:
    """An empty panel of the size that all panels have, legible on a phone, with faint horizontal rules."""
    figure = Figure(figsize=(4.4, 3.4))
    axes = figure.add_axes((left, 0.145, right - left, 0.745))
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def plain(value: float) -> str:
    """A tick label: 0.02, −63, 10⁻⁵."""
    text = f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}".replace(".00", "")
    if "e" not in text:
        return text.replace("-", "−")
    mantissa, exponent = text.split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def in_page_colours(tag: str) -> str:
    """Replace a tag's fixed colours by the page's variables, so that they follow light and dark."""
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag


_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--card"}
_VARIABLES |= {style.colour: f"--{name}" for name, style in METHODS.items()}


def style_sheet() -> str:
    """The page's CSS: light, dark and print."""
    light = "".join(f"--{name}:{style.colour};" for name, style in METHODS.items())
    dark = "".join(f"--{name}:{style.dark};" for name, style in METHODS.items())
    light = f"--ink:{INK};--muted:{MUTED};--rule:{RULE};--page:#f7f6f3;--card:#ffffff;{light}"
    dark = f"--ink:#e6e8eb;--muted:#9aa3ae;--rule:#363b43;--page:#15171a;--card:#1d2024;{dark}"
    return (
        f":root{{color-scheme:light dark;{light}--positive:{POSITIVE};--negative:{NEGATIVE};}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{_RULES}"
    )


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
  font:1.0625rem/1.6 Charter,"Bitstream Charter","Iowan Old Style",Palatino,Georgia,serif}
main{max-width:66rem;margin:0 auto;padding:3.5rem 1.5rem 4rem}
header,section{margin-bottom:3.75rem}
h1{font-size:clamp(1.9rem,5vw,2.9rem);line-height:1.12;letter-spacing:-.015em;margin:.35rem 0 .8rem;
  font-weight:600;text-wrap:balance}
h2{font-size:1.5rem;line-height:1.25;margin:0 0 .7rem;font-weight:600;text-wrap:balance;
  padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1.0625rem;margin:1.8rem 0 .4rem;font-weight:600}
p,ul{max-width:42rem;margin:0 0 .9rem;text-wrap:pretty}
ul{padding-left:1.15rem}li{margin-bottom:.45rem}
a{color:var(--qrt-smoothed)}
.kicker,.facts,.note,figcaption,table,.tile,.bars,summary,pre,.key
  {font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.kicker{font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:var(--qrt-smoothed);
  font-weight:600;margin:0}
.lede{font-size:1.2rem;line-height:1.5;max-width:46rem}
.facts{display:flex;flex-wrap:wrap;gap:.35rem 1.6rem;font-size:.875rem;color:var(--muted);
  list-style:none;padding:0;max-width:none}
.facts li{margin:0}.facts b{color:var(--ink);font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(17.5rem,1fr));gap:1rem;
  margin:1.6rem 0 1.2rem}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:1.15rem 1.3rem 1rem}
.tile h3{margin:0;font-size:.875rem;color:var(--muted);font-weight:500}
.tile .big{font-size:clamp(2.6rem,7vw,3.4rem);line-height:1.1;font-weight:600;letter-spacing:-.02em;
  color:var(--qrt-smoothed);font-variant-numeric:tabular-nums;margin:.2rem 0 0}
.tile .of{font-size:.875rem;color:var(--muted);margin:0 0 .9rem}
.tile table{margin:0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem;
  margin:1.1rem 0 1rem}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
  padding:1rem 1rem .85rem;
  break-inside:avoid;min-width:0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
  sans-serif!important}
.lone{max-width:34rem}
figcaption{font-size:.875rem;line-height:1.5;color:var(--muted);margin-top:.6rem}
figcaption b{color:var(--ink);font-weight:600}
.nodes{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.75rem,1fr));gap:.8rem;
  margin:1.1rem 0 .8rem}
.nodes.bars-by-name{grid-template-columns:repeat(auto-fill,minmax(13rem,1fr))}
.nodes figure{padding:.7rem .7rem .55rem}.nodes figcaption{margin-top:.3rem;font-size:.8125rem;
  text-align:center}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;font-size:.8125rem;color:var(--muted);padding:0;
  list-style:none;max-width:none}
.key li{margin:0}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.4rem;
  vertical-align:-.08rem;
  border:1px solid var(--rule)}
.scroll{overflow-x:auto;margin:.8rem 0 1.2rem}
table{border-collapse:collapse;font-size:.875rem;line-height:1.4;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .9rem .32rem 0;text-align:right;border-bottom:1px solid var(--rule);
  vertical-align:baseline;white-space:nowrap}
th:first-child,td:first-child,.text{text-align:left!important}
th:last-child,td:last-child{padding-right:.15rem}
thead th{color:var(--muted);font-weight:500;vertical-align:bottom}
td small{color:var(--muted);font-size:.86em;margin-left:.45em}
sub,sup{line-height:0}
.note{font-size:.875rem;color:var(--muted)}
.verdict{font-size:1.2rem;line-height:1.5;max-width:46rem}
.mark{display:inline-block;width:1.3em;text-align:center;font-weight:600}
.tile .scroll{margin:0}.tile table{width:100%}
  .tile td:first-child{white-space:normal;overflow-wrap:anywhere}.tile td small{display:block;margin:0}
  .tile b{color:var(--qrt-smoothed)}
  .tile tr:last-child>*{border-bottom:0}
.swatch{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.5rem}
.bars{width:100%;max-width:42rem;margin:.6rem 0 1.6rem}.bars th,.bars td{border:0;
  padding:.18rem .9rem .18rem 0}
.bars td:first-child{white-space:nowrap}.bars .bar{width:100%}.bars .bar div{height:.7rem;
  min-width:2px;border-radius:2px;
  background:var(--qrt-smoothed);opacity:.75}
.bars .total>*{font-weight:600;border-top:1px solid var(--rule);padding-top:.4rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:0 2.5rem}
.pair h3{margin-top:.6rem}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.8rem 1rem;
  overflow-x:auto;margin:.6rem 0 1.2rem;
  font:.875rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;
  overflow-wrap:anywhere}
details{border-top:1px solid var(--rule);padding:.6rem 0}
details:last-of-type{border-bottom:1px solid var(--rule)}
summary{cursor:pointer;font-size:.95rem;font-weight:500}
summary span{color:var(--muted);font-weight:400}
aside{border-left:3px solid var(--qrt-smoothed);padding:.1rem 0 .1rem 1.1rem;margin:1.2rem 0;
  max-width:42rem}
aside p:last-child{margin-bottom:0}
@media(max-width:34rem){
  main{padding:1.75rem 1rem 2.5rem}header,section{margin-bottom:2.75rem}
  body{font-size:1rem}.lede{font-size:1.1rem}
  figure{padding:.7rem .6rem .7rem}
  table{font-size:.8125rem}th,td{padding-right:.6rem}
  .nodes{grid-template-columns:repeat(3,1fr);gap:.5rem}
  .nodes.bars-by-name{grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr))}.nodes figure{padding:.45rem}
  .nodes figcaption{font-size:.72rem}
}
@media print{
  @page{margin:16mm}
  html{font-size:11.5px}body{background:#fff}
  main{max-width:none;padding:0}header,section{margin-bottom:1.6rem}
  h2,h3,h2+p{break-after:avoid}p,li{break-inside:avoid}*{print-color-adjust:exact}.tile,figure,aside,tr{break-inside:avoid}
  .figures{grid-template-columns:1fr 1fr}.nodes{grid-template-columns:repeat(6,1fr)}
  figure,.tile{border-color:#ccc}
  .scroll{overflow:visible}th,td{padding-right:.7em}
  a{color:inherit;text-decoration:none}
}
"""
