import itertools
from pathlib import Path

import pytest

from qrt_tn.studies.config import Study, load_study, parse_study
from qrt_tn.studies.config.study import shipped
from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings

HEAD = 'name = "s"\nexperiment = "rehearsal"\n'
FIGURE = "[[figures]]\ntitle = 'F'\nx = 'number'\ny = 'value'\n"


class Bounded(Settings):
    """A parameter that may be left open, as the experiments have them."""

    points: int | None = None
    width: float | None = None
    free: float = 0.0


def parse(text: str, *, quick: bool = False) -> Study:
    return parse_study(HEAD + text, "s.toml", quick=quick)


def refused(text: str, *, quick: bool = False) -> str:
    with pytest.raises(ValueError, match=r"s\.toml") as error:
        parse(text, quick=quick)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Experiment("bounded", "for a test", Bounded, "nowhere:nothing", {"value": Metric("value")})
    monkeypatch.setattr("qrt_tn.studies.config.study.experiment", lambda name: kind)


def chosen(study: Study, *names: str) -> list[tuple[object, ...]]:
    return [(*(point.parameters[name] for name in names), point.seed) for point in study.points]


def test_axes_are_crossed_the_last_fastest_and_seeds_fastest_of_all() -> None:
    study = parse('seeds = 2\n[axes]\nnumber = [3, 1]\nlabel = ["b", "a"]\n')
    assert chosen(study, "number", "label") == list(itertools.product([3, 1], ["b", "a"], [0, 1]))
    assert study.varied == ("number", "label")


def test_zipped_axes_vary_together_and_cross_the_others() -> None:
    study = parse(
        "seeds = [7]\n[axes]\nsteps = [1, 2]\n[[zipped]]\nnumber = [1, 2, 3]\nlabel = ['x', 'x', 'y']\n"
        "[[zipped]]\nmegabytes = [5, 6]\n"
    )
    pairs = [(1, "x"), (2, "x"), (3, "y")]
    expected = [(s, n, t, m, 7) for s in (1, 2) for n, t in pairs for m in (5, 6)]
    assert chosen(study, "steps", "number", "label", "megabytes") == expected
    assert study.varied == ("steps", "number", "label", "megabytes")


def test_ranges_may_be_zipped() -> None:
    study = parse(
        "[[zipped]]\nnumber = { range = [1, 9], step = 4 }\nseconds = { log_range = [0.25, 4], count = 3 }\n"
    )
    assert chosen(study, "number", "seconds") == [(1, 0.25, 0), (5, 1.0, 0), (9, 4.0, 0)]


def test_a_study_without_axes_is_one_point_a_seed() -> None:
    assert [point.seed for point in parse("seeds = 3\n").points] == [0, 1, 2]
    assert [point.seed for point in parse("seeds = [5, 2]\n").points] == [5, 2]


def test_needs_are_told_once_each_in_the_order_of_points() -> None:
    study = parse('[axes]\nlabel = ["a", "b"]\nnumber = [2, 1]\n[resources]\nranks = "number"\n')
    assert [needs.ranks for needs in study.needs()] == [2, 1]


def test_the_digest_tells_text_and_variant_apart() -> None:
    text = "[quick]\nseeds = 2\n"
    found = {parse(text).digest, parse(text, quick=True).digest, parse(text + "# a remark\n").digest}
    assert len(found) == 3
    assert parse(text).digest == parse(text).digest


# the quick variant

WHOLE = """seeds = 4
[fixed]
seconds = 10.0
steps = 10
[axes]
number = [1, 2, 3]
label = ["a", "b"]
[resources]
minutes = 5
memory = 0.5
"""


def test_quick_replaces_by_name_and_keeps_the_rest() -> None:
    study = parse(
        WHOLE + "[quick]\nseeds = 1\nfixed = { seconds = 0.1 }\naxes = { number = [9] }\n"
        "resources = { minutes = 1 }\n",
        quick=True,
    )
    assert study.name == "s-quick"
    assert study.quick
    assert chosen(study, "number", "label", "seconds", "steps") == [
        (9, "a", 0.1, 10, 0),
        (9, "b", 0.1, 10, 0),
    ]
    assert {(point.needs.minutes, point.needs.memory) for point in study.points} == {(1.0, 0.5)}
    whole = parse(WHOLE + "[quick]\nseeds = 1\n")
    assert (whole.name, len(whole.points)) == ("s", 24)


def test_quick_fixes_an_axis_and_varies_what_was_fixed() -> None:
    study = parse(
        WHOLE + "[quick]\nfixed = { number = 7 }\naxes = { steps = [1, 2] }\nseeds = 1\n", quick=True
    )
    assert study.varied == ("label", "steps")
    assert chosen(study, "number", "label", "steps") == [
        (7, label, steps, 0) for label in ("a", "b") for steps in (1, 2)
    ]


def test_quick_replaces_zipped_axes_as_a_whole() -> None:
    zipped = "[[zipped]]\nnumber = [1, 2]\nsteps = [1, 2]\n"
    study = parse(zipped + "[quick]\nzipped = [{ number = [5], steps = [6] }]\n", quick=True)
    assert chosen(study, "number", "steps") == [(5, 6, 0)]
    alone = parse(zipped + "[quick]\nzipped = []\naxes = { number = [8] }\n", quick=True)
    assert chosen(alone, "number", "steps") == [(8, 1, 0)]
    turned = parse("[axes]\nnumber = [1, 2]\n[quick]\nzipped = [{ number = [5], steps = [6] }]\n", quick=True)
    assert chosen(turned, "number", "steps") == [(5, 6, 0)]


def test_there_must_be_a_quick_variant_to_take_it() -> None:
    assert "there is no quick variant" in refused("", quick=True)


@pytest.mark.parametrize(
    "text",
    [
        "[quick]\naxes = { numbr = [1] }\n",
        "[quick]\nfixed = { numbr = 1 }\n",
        "[quick]\naxes = { number = [] }\n",
        "[quick]\nseeds = 0\n",
        "[quick]\nresources = { memory = -1 }\n",
        "[quick]\nfixed = { number = 'one' }\n",
    ],
)
def test_a_broken_quick_variant_is_found_by_every_run_and_named(text: str) -> None:
    assert "quick" in refused(text)


# what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('expermient = "x"\n', "unknown key 'expermient'; did you mean 'experiment'?"),
        ("[fixed]\nnumbr = 1\n", "unknown parameter of rehearsal 'numbr'; did you mean 'number'?"),
        ("[axes]\nlable = ['a']\n", "unknown parameter of rehearsal 'lable'; did you mean 'label'?"),
        ("[axes]\nnumber = { rnge = [1, 2] }\n", "axes.number 'rnge'; did you mean 'range'?"),
        (
            "[[zipped]]\nstps = [1]\n",
            "zipped[0]: unknown parameter of rehearsal 'stps'; did you mean 'steps'?",
        ),
        ("[quick]\nresources = { gpu = 1 }\n", "'gpu'; did you mean 'gpus'?"),
        (
            f"{FIGURE}serie = 'label'\n",
            "unknown key in figures[0] 'serie'; did you mean 'series'?",
        ),
        ("[whatever]\n", "unknown key 'whatever'; choose from name, title"),
        ("[axes]\nnumber = []\n", "axes.number has no values, so the study has no points"),
        ("[[zipped]]\nnumber = []\n", "zipped[0].number has no values"),
        ("[[zipped]]\n", "zipped[0] names no axes"),
        ("[[zipped]]\nnumber = [1, 2]\nsteps = [1]\n", "number has 2, steps has 1 values"),
        ("seeds = 0\n", "seeds is 0, so the study has no points"),
        ("seeds = -2\n", "seeds is -2"),
        ("seeds = [1, -2]\n", "seeds holds -2"),
        ("seeds = [1, 1]\n", "with one twice"),
        ("seeds = 1.5\n", "1.5"),
        ("[axes]\nnumber = [1, 2, 1]\n", "axes.number has 1 twice"),
        ("[axes]\nseconds = [1, 1.0]\n", "two points are the same"),
        ("[[zipped]]\nnumber = [1, 2, 1]\nsteps = [3, 3, 3]\n", "two points are the same"),
        ("[fixed]\nnumber = 1\n[axes]\nnumber = [2]\n", "axes.number is given twice"),
        ("[axes]\nnumber = [2]\n[[zipped]]\nnumber = [2]\n", "zipped[0].number is given twice"),
        ("[fixed]\nnumber = 'one'\n", "number is 'one'"),
        ("[fixed]\nseconds = -1\n", "fixed.seconds is -1: input should be greater than or equal to 0"),
        ("[axes]\nnumber = [1]\nsteps = [1, 0]\n", "point (number=1, steps=0).steps is 0"),
        (
            "[axes]\nnumber = { range = [1, 2e3], step = 1 }\nsteps = { range = [1, 2e3], step = 1 }\n",
            "4,000,000",
        ),
        ("[axes]\nseconds = [1, 1" + 400 * "0" + "]\n", "axes.seconds[1] is 1000"),
        ("[fixed]\nnumber = 1" + 5000 * "0", "4300 digits"),
        ("seeds = [9223372036854775808]\n", "seeds[0] is 9223372036854775808"),
        ("seeds = 9223372036854775808\n", "seeds is 9223372036854775808"),
        (f"{FIGURE}where = {{ number = [1979-05-27] }}\n", "figures[0].where.number[0] is 1979-05-27"),
        (f"{FIGURE}reference = {{ number = 07:32:00 }}\n", "figures[0].reference.number is 07:32:00"),
        ("[fixed]\nlabel = 1979-05-27T07:32:00Z\n", "fixed.label is 1979-05-27 07:32:00+00:00"),
        ("[axes]\nnumber = " + 100_000 * "[", "nests brackets too deep"),
        ("[axes]\nnumber = " + 100_000 * "{a=", "nests brackets too deep"),
        (f"[fixed]\n{300 * 'x'} = 1\n", 300 * "x"),
        (f"[fixed]\nending = '{300 * 'x'}'\n", 300 * "x"),
        (
            "seeds = 1000000000000000\n",
            "seeds is 1,000,000,000,000,000",
        ),  # as a list, no machine could hold them
    ],
    ids=lambda text: text[:40],
)
def test_what_cannot_be_is_refused_with_its_place_and_the_nearest_name(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('experiment = "rehearsal"\n', "name is missing"),
        ('name = "s"\n', "experiment is missing"),
        ('name = "a/b"\nexperiment = "rehearsal"\n', "name is 'a/b'"),
        (f'name = "{101 * "x"}"\nexperiment = "rehearsal"\n', "name is 'xxx"),
        ('name = ".."\nexperiment = "rehearsal"\n', "name is '..'"),
        ('name = "s"\nexperiment = "rehersal"\n', "unknown experiment 'rehersal'; did you mean 'rehearsal'?"),
        ('name = "s"\nexperiment = "xyzzy"\n', "choose from rehearsal"),
    ],
)
def test_name_and_experiment_are_checked(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="study") as error:
        parse_study(text, "study")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text", ["[fixed]\nfree = nan\n", "[fixed]\nfree = inf\n", "[axes]\nwidth = [inf]\n"]
)
def test_parameters_that_are_no_numbers_are_refused(bounded: None, text: str) -> None:
    # a record is JSON, which cannot hold them: the point would be run, and its result never kept
    assert "number" in refused(text)


def test_ranges_of_a_whole_parameter_that_may_be_left_open_are_whole(bounded: None) -> None:
    study = parse("[axes]\npoints = { log_range = [1, 16], count = 5 }\n")
    assert chosen(study, "points") == [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0)]
    study = parse("[axes]\nwidth = { range = [1, 2], step = 0.5 }\n")
    assert chosen(study, "width") == [(1.0, 0), (1.5, 0), (2.0, 0)]


# files


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("name = \n", 1, 8),
        ("name = 's'\nexperiment = rehearsal\n", 2, 14),
        ("name = 's'\n[axes\n", 2, 6),
        ("name = 's'\nname = 't'\nseeds = 1\n", 2, 11),
        ("name = 's'\nname = 't'\n", 2, 11),
        ("name = 's'\nlabel = 'open", 2, 14),
    ],
)
def test_malformed_toml_tells_line_and_column(tmp_path: Path, text: str, line: int, column: int) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.toml is not TOML") as error:
        load_study(file)
    assert f"line {line}, column {column}" in str(error.value)


def test_files_that_are_none_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*absent\.toml; give a TOML file"):
        load_study(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="did you mean 'rehearsal'"):
        load_study("rehersal")
    latin = tmp_path / "latin.toml"
    latin.write_bytes('title = "é"\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_study(latin)


def test_a_file_is_read_from_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(HEAD + "seeds = 2\n", encoding="utf-8")
    assert load_study(file).points[1].id == parse("seeds = 2\n").points[1].id
    assert load_study(file).source == str(file)


@pytest.mark.parametrize("name", shipped())
def test_every_study_that_comes_with_the_package_can_be_read(name: str) -> None:
    whole, quick = load_study(name), load_study(name, quick=True)
    assert (whole.name, quick.name) == (name, f"{name}-quick")
    assert 0 < len(quick.points) <= len(whole.points)
    assert whole.figures
