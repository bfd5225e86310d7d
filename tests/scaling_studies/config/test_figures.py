import pytest

from qrt_tn.studies.config import parse_study
from qrt_tn.studies.config.figures import Figure

HEAD = 'name = "s"\nexperiment = "rehearsal"\n[axes]\nnumber = [1, 2]\n[[figures]]\n'
WELL = 'title = "F"\nx = "number"\ny = "value"\n'


def figure(text: str) -> Figure:
    return parse_study(HEAD + text, "s.toml").figures[0]


def test_figures_are_lines_unless_told_otherwise() -> None:
    found = figure(WELL)
    assert (found.kind, found.scale, found.band, found.fit) == ("lines", "linear", "range", "none")


@pytest.mark.parametrize("name", ["wall_seconds", "peak_bytes", "seed", "seconds", "seconds_passed"])
def test_figures_show_metrics_parameters_and_what_every_point_records(name: str) -> None:
    assert figure(f'title = "F"\nx = "number"\ny = "{name}"\n').y == name


def test_other_kinds_have_what_they_need() -> None:
    assert figure(WELL + 'kind = "ratio"\nreference = { number = 1 }\n').reference == {"number": 1}
    reach = figure(WELL + 'kind = "reach"\nof = "steps"\nlevel = 0.5\ngoal = "below"\n')
    assert (reach.of, reach.level, reach.goal) == ("steps", 0.5, "below")
    chosen = figure(WELL + 'series = "seed"\npanels = "label"\nwhere = { number = [1, 2] }\nfit = "power"\n')
    assert (chosen.series, chosen.panels, chosen.where) == ("seed", "label", {"number": [1, 2]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('x = "number"\ny = "value"\n', "figures[0].title is missing"),
        ('title = ""\nx = "number"\ny = "value"\n', "figures[0].title"),
        ('title = "F"\nx = "number"\n', "needs x and y"),
        (
            'title = "F"\nx = "numbr"\ny = "value"\n',
            "figures[0].x: unknown name 'numbr'; did you mean 'number'?",
        ),
        (
            'title = "F"\nx = "number"\ny = "valu"\n',
            "figures[0].y: unknown name 'valu'; did you mean 'value'?",
        ),
        (WELL + 'series = "lable"\n', "figures[0].series: unknown name 'lable'; did you mean 'label'?"),
        (WELL + 'series = "value"\n', "figures[0].series: unknown name 'value'"),
        (WELL + 'panels = "seed"\n', "figures[0].panels: unknown name 'seed'"),
        (
            WELL + "where = { numbr = 1 }\n",
            "figures[0].where: unknown parameter 'numbr'; did you mean 'number'?",
        ),
        (WELL + 'kind = "ratio"\n', "needs reference"),
        (
            WELL + 'kind = "ratio"\nreference = { stps = 1 }\n',
            "unknown parameter 'stps'; did you mean 'steps'?",
        ),
        (WELL + 'kind = "reach"\nof = "steps"\n', "needs of (a parameter) and level"),
        (WELL + 'kind = "reach"\nof = "value"\nlevel = 1.0\n', "figures[0].of: unknown name 'value'"),
        (WELL + 'kind = "pie"\n', "figures[0].kind is 'pie'"),
        (WELL + 'scale = "loglog"\n', "figures[0].scale is 'loglog'"),
        ('title = "F"\nkind = "roofline"\n', "does not measure flops, which a roofline needs"),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"s\.toml") as refused:
        figure(text)
    assert said in str(refused.value)


def test_the_second_figure_is_named_as_such() -> None:
    with pytest.raises(ValueError, match=r"figures\[1\]\.x"):
        figure(WELL + '[[figures]]\ntitle = "G"\nx = "nothing"\ny = "value"\n')
