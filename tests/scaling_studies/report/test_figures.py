import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from qrt_tn.studies.report import figures, node_panels, score_panels
from qrt_tn.studies.report.folder import load
from qrt_tn.studies.report.style import FIGURE_SETTINGS, METHODS, NEGATIVE, POSITIVE, in_page_colours, plain

Folder = Callable[..., Path]
PANELS = [
    "accuracy-fitted",
    "accuracy-trained",
    "risk-fitted",
    "risk-trained",
    "broad-fitted",
    "broad-gain-fitted",
]
NODES = [f"node-{k:02d}" for k in range(1, 4)]
STATES = ["bond-dimensions", "schmidt-values", "schmidt-spectra"]
SOURCES = ["node-spectrum", "ridgelet-spectrum", *STATES]


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_every_panel_is_a_whole_svg_file_in_the_order_of_the_report(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    drawn = figures.draw_all(folder)
    assert list(drawn) == [*PANELS, *NODES, *SOURCES]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(
        f"{name}.svg" for name in drawn
    )
    labels = texts(drawn["accuracy-trained"])
    for method in ("qrt-smoothed", "qrt-unsmoothed", "filter", "uniform", "random-features", "dense"):
        assert METHODS[method].label in labels
    assert "dense network" not in texts(drawn["accuracy-fitted"])
    assert {"16", "64", "1024"} <= set(labels)


def test_the_same_folder_gives_the_same_bytes(ticket_folder: Folder) -> None:
    folder = ticket_folder()
    first = {name: path.read_bytes() for name, path in figures.draw_all(folder).items()}
    second = {name: path.read_bytes() for name, path in figures.draw_all(folder).items()}
    assert first == second
    assert not any(b"<dc:date>" in content for content in first.values())


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"regression": True, "image": False}, {"accuracy-fitted", "accuracy-trained"}),
        ({"seeds": (5,)}, set()),
        ({"methods": ("qrt-smoothed",)}, {"broad-fitted", "broad-gain-fitted"}),
        ({"methods": ("dense",)}, {"accuracy-fitted", "risk-fitted", "broad-fitted", "broad-gain-fitted"}),
        ({"node_counts": (64,)}, set()),
        ({"manifest_changes": {"states": []}}, set(STATES)),
        (
            {"manifest_changes": {"states": None, "smoothing": None}},
            set(STATES),
        ),
    ],
)
def test_only_what_was_measured_is_drawn(ticket_folder: Folder, options: dict, absent: set[str]) -> None:
    drawn = figures.draw_all(ticket_folder(**options))
    assert set(drawn) == {*PANELS, *NODES, *SOURCES} - absent


def test_one_seed_has_no_band(ticket_folder: Folder) -> None:
    def bands(**options: tuple[int, ...]) -> int:
        path = figures.draw_all(ticket_folder(**options))["accuracy-fitted"]
        return len(re.findall(r"FillBetweenPolyCollection|fill-opacity: 0\.16", path.read_text()))

    assert bands(seeds=(0, 1)) > 0
    assert bands(seeds=(0,)) == 0


def test_the_accuracy_axis_is_logarithmic_in_the_error(ticket_folder: Folder) -> None:
    results = load(ticket_folder(methods=("qrt-smoothed",)))
    bands = results.bands(("qrt-smoothed",), "fitted", "test_accuracy")
    axes = score_panels.scores(results, bands, "fitted", "test_accuracy").axes[0]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 7)
    np.testing.assert_allclose(1 - 10 ** -np.asarray(line.get_ydata()), bands["qrt-smoothed"].median)
    ticks = axes.get_yticks()
    formatted = [axes.yaxis.get_major_formatter()(tick, 0) for tick in ticks]
    np.testing.assert_allclose([float(text) for text in formatted], 1 - 10**-ticks, atol=1e-9)


def test_perfect_accuracy_is_drawn_at_half_a_test_point(ticket_folder: Folder) -> None:
    results = load(ticket_folder(methods=("qrt-smoothed",)))
    results.metrics["test_accuracy"][:] = 1.0
    bands = results.bands(("qrt-smoothed",), "fitted", "test_accuracy")
    axes = score_panels.scores(results, bands, "fitted", "test_accuracy").axes[0]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 7)
    np.testing.assert_allclose(10 ** -np.asarray(line.get_ydata()), 0.5 / 360)


def label_heights(axes: Axes) -> list[float]:
    return sorted(text.xyann[1] for text in axes.texts)


def test_names_of_lines_do_not_touch(ticket_folder: Folder) -> None:
    """Even where every line ends at the same point."""
    results = load(ticket_folder())
    results.metrics["test_risk"][:] = 0.05
    bands = results.bands(("qrt-smoothed", "filter", "uniform", "random-features"), "fitted", "test_risk")
    assert len(bands) == 4
    axes = score_panels.scores(results, bands, "fitted", "test_risk").axes[0]
    heights = label_heights(axes)
    points = axes.get_position().height * axes.get_figure().get_figheight() * 72
    assert np.diff(heights).min() * points > axes.texts[0].get_fontsize()
    assert heights[0] >= 0
    assert heights[-1] <= 1


def test_a_gain_in_risk_is_a_saving(ticket_folder: Folder) -> None:
    results = load(ticket_folder(regression=True, image=False))
    qrt = results.metrics["method"] == "qrt-broad"
    results.metrics["test_risk"][:] = np.where(qrt, 0.1, 0.3)
    gain = results.gain("qrt-broad", "filter-broad", "fitted", "test_risk")
    assert gain is not None
    axes = score_panels.gain(results, gain).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 0.2)


def test_a_node_shows_its_frequency_and_its_threshold(ticket_folder: Folder) -> None:
    results = load(ticket_folder())
    for k in (0, 2):
        upper, lower = node_panels.node(results, k).axes
        pixels = np.asarray(upper.images[0].get_array())
        u = results.showcase["u"][k].reshape(8, 8)
        assert pixels.shape == (8, 8, 4)
        np.testing.assert_array_equal(pixels[..., 3] > 0, u != 0)
        for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
            assert {to_hex(pixel[:3]) for pixel in pixels[np.sign(u) == sign]} <= {colour}
        (dot,) = (line for line in lower.lines if len(line.get_xdata()) == 1)
        assert int(dot.get_xdata()[0]) % 127 == results.showcase["b"][k]
        np.testing.assert_allclose(
            dot.get_ydata()[0], results.showcase["probability"][k][results.showcase["b"][k]]
        )


def test_colours_on_the_page_are_variables_and_differ_by_method() -> None:
    colours = {style.colour for name, style in METHODS.items() if not name.endswith("broad")}
    assert len(colours) == len(METHODS) - 2
    for name, style in METHODS.items():
        if not name.endswith("broad"):
            assert in_page_colours(f"stroke: {style.colour}") == f"stroke: var(--{name})"
    assert METHODS["qrt-broad"].colour == METHODS["qrt-smoothed"].colour


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02, "0.02"),
        (-63, "−63"),
        (1e-5, "10⁻⁵"),
        (1e-4, "10⁻⁴"),
        (0.001, "0.001"),
        (2000.0, "2·10³"),
        (0, "0"),
        (1, "1"),
    ],
)
def test_tick_labels_are_plain(value: float, text: str) -> None:
    assert plain(value) == text


def test_settings_are_known_to_matplotlib() -> None:
    import matplotlib

    assert set(FIGURE_SETTINGS) <= set(matplotlib.rcParams)
