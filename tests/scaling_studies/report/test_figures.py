from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from qrt_tn.studies.report import draw_all, load, node_panels, score_panels, style

Folder = Callable[..., Path]


@pytest.mark.parametrize("seeds", [(5,), (0, 1)])
def test_every_method_is_named_and_one_seed_has_no_band(ticket_folder: Folder, seeds: tuple) -> None:
    drawn = draw_all(load(ticket_folder(seeds=seeds)))
    others = "node-01 node-02 node-03 node-spectrum bond-dimensions schmidt-values schmidt-spectra"
    assert list(drawn) == ["scores-fitted", "scores-trained", *others.split()]
    for training, methods in (
        ("fitted", "residual qrt filter random-features"),
        ("trained", "residual dense"),
    ):
        words = {*ElementTree.parse(drawn[f"scores-{training}"]).getroot().itertext()}
        named = {method for method, look in style.METHODS.items() if look.label in words}
        assert named == {*methods.split(), "linear", "svm"}
        assert {"16", "64"} <= words
        assert ("FillBetweenPolyCollection" in drawn[f"scores-{training}"].read_text()) == (len(seeds) > 1)


@pytest.mark.parametrize(
    ("score", "regression"),
    [(None, False), (None, True), (1.0, False), (1.0, True), (0.9995, True), (0.8, False), (-0.3, True)],
)
def test_curves_are_whole_and_truly_labelled(
    ticket_folder: Folder, score: float | None, regression: bool
) -> None:
    results = load(ticket_folder(regression=regression, counts=(16, 64, 256)))
    if score is not None:
        results.metrics["error"][:] = 1 - score
    bands = results.bands(style.METHODS, "fitted", "error")
    axes = score_panels.scores(results, bands, "fitted", {"svm": bands["residual"].mean[-1]}).axes[0]
    floor = 1e-6 if regression else 0.5 / 80  # a perfect score is drawn at half a test point
    low, high = axes.get_ylim()
    lines = [np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3]
    for heights, band in zip(lines, bands.values(), strict=True):
        np.testing.assert_allclose(10**-heights, np.maximum(band.mean, floor))
        assert low < heights.min() <= heights.max() < high
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    labels = [axes.yaxis.get_major_formatter()(tick, 0).replace("−", "-") for tick in ticks]
    assert labels
    np.testing.assert_allclose([float(label) for label in labels], 1 - 10 ** -np.array(ticks), atol=1e-6)
    # names keep apart and inside, even where every line ends at the same point
    places = sorted(text.xyann[1] for text in axes.texts)
    points = axes.get_position().height * axes.get_figure().get_figheight() * 72
    assert np.diff(places).min() * points > axes.texts[0].get_fontsize()
    assert 0 <= places[0] <= places[-1] <= 1


@pytest.mark.parametrize("shape", [(8, 8), (4, 5, 3), None])
def test_a_node_shows_its_frequency(ticket_folder: Folder, shape: tuple[int, ...] | None) -> None:
    results = load(ticket_folder(image=shape))
    for k, a in enumerate((results.showcase["a"] + 63) % 127 - 63):
        axes = node_panels.node(results, k).axes[0]
        if shape is None:
            names = [label.get_text() for label in axes.get_yticklabels()]
            assert names == [f"column {place}" for place in np.flatnonzero(a)]
            values, colours = a[a != 0], [bar.get_facecolor() for bar in axes.patches]
            assert [bar.get_width() for bar in axes.patches] == values.tolist()
        else:
            pixels = np.asarray(axes.images[0].get_array())
            planes = a.reshape((*shape, 1)[:3])  # red, green and blue side by side
            values = np.concatenate([planes[..., colour] for colour in range(planes.shape[2])], axis=1)
            np.testing.assert_array_equal(pixels[..., 3] > 0, values != 0)
            values, colours = values[values != 0], pixels[values != 0]
        signs = [style.POSITIVE if value > 0 else style.NEGATIVE for value in values]
        assert [to_hex(colour[:3]) for colour in colours] == signs


def test_colours_follow_light_and_dark_and_ticks_are_plain() -> None:
    for look in style.METHODS.values():  # those of one colour are of one colour in the dark too
        variable = style.in_page_colours(look.colour)
        assert style.METHODS[variable.removeprefix("var(--").removesuffix(")")].dark == look.dark
    assert set(style.FIGURE_SETTINGS) <= set(matplotlib.rcParams)
    texts = {0.02: "0.02", -63: "−63", 1e-5: "10⁻⁵", 0.001: "0.001", 2000.0: "2·10³", 0: "0", 1: "1"}
    assert {value: style.plain(value) for value in texts} == texts
