import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrt_tn.studies.config import Point, parse_study
from qrt_tn.studies.config.points import Needs, order, point_id, shares

HEAD = 'name = "s"\nexperiment = "rehearsal"\n'


def points(text: str) -> list[Point]:
    return list(parse_study(HEAD + text, "s.toml").points)


def test_ids_are_those_of_every_other_day_and_machine() -> None:
    # stores live on: an id that changes makes all that is finished count as missing
    assert point_id("rehearsal", 1, {"number": 3, "label": "é"}, 2) == "8c63290363b01ea1fc6b"
    assert [point.id for point in points("")] == ["d5605c0ca27a50d76a29"]
    assert [point.id for point in points("[fixed]\nnumber = 3\nseconds = 1.0\n")] == ["98e54178892d5dc2caec"]


def test_the_order_of_a_file_and_defaults_written_out_change_no_id() -> None:
    plain = points('[fixed]\nlabel = "a"\nnumber = 3\n')
    turned = points('[fixed]\nnumber = 3\nlabel = "a"\n')
    full = points(
        '[fixed]\nlabel = "a"\nnumber = 3\nseconds = 0.1\nsteps = 1\nmegabytes = 0\nending = "well"\n'
    )
    varied = points('[axes]\nnumber = [3]\nlabel = ["a"]\n')
    assert plain[0].id == turned[0].id == full[0].id == varied[0].id
    assert dict(plain[0].parameters) == dict(full[0].parameters)


def test_a_whole_number_for_a_number_is_the_same_point() -> None:
    assert points("[fixed]\nseconds = 1\n")[0].id == points("[fixed]\nseconds = 1.0\n")[0].id


def test_ids_do_not_depend_on_resources() -> None:
    other = points("[resources]\nminutes = 1\nmemory = 0.5\ncores = 2\nranks = 2\nexclusive = true\n")
    assert other[0].id == points("")[0].id


SETTINGS = st.fixed_dictionaries(
    {"number": st.integers(-9, 9), "label": st.text("ab", max_size=2), "steps": st.integers(1, 4)}
)


@given(SETTINGS, st.integers(0, 9), SETTINGS, st.integers(0, 9))
def test_two_ids_are_equal_where_all_parameters_and_seeds_are(
    one: dict[str, int], seed: int, other: dict[str, int], second: int
) -> None:
    same = one == other and seed == second
    assert (point_id("rehearsal", 1, one, seed) == point_id("rehearsal", 1, other, second)) == same


def test_experiment_and_revision_are_part_of_an_id() -> None:
    known = point_id("rehearsal", 1, {"a": 1}, 0)
    assert len({known, point_id("rehearsal", 2, {"a": 1}, 0), point_id("risk", 1, {"a": 1}, 0)}) == 3
    assert len(known) == 20
    assert set(known) <= set("0123456789abcdef")


def test_a_text_among_resources_stands_for_the_parameter_of_that_name() -> None:
    found = points(
        "[axes]\nnumber = [1, 2]\nsteps = [3]\n"
        '[resources]\ngpus = "number"\nranks = "number"\ncores = "steps"\n'
    )
    assert [(one.needs.gpus, one.needs.ranks, one.needs.cores) for one in found] == [(1, 1, 3), (2, 2, 3)]


def test_needs_are_as_the_file_says() -> None:
    text = "[resources]\ngpus = 2\nranks = 3\ncores = 4\nmemory = 1.5\nminutes = 7\nexclusive = true\n"
    assert points(text)[0].needs == Needs(gpus=2, ranks=3, cores=4, memory=1.5, minutes=7.0, exclusive=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu = 1", "unknown key in resources 'gpu'; did you mean 'gpus'?"),
        ('cores = "numbr"', "resources.cores: unknown parameter 'numbr'; did you mean 'number'?"),
        ('ranks = "label"', "resources.ranks is ''"),
        ('ranks = "number"', "resources.ranks is 0"),
        ('cores = "seconds"', "resources.cores is 0.1"),
        ("ranks = 0", "resources.ranks is 0"),
        ("gpus = -1", "resources.gpus is -1"),
        ("gpus = true", "is True"),
        ("memory = 0", "resources.memory is 0"),
        ("memory = nan", "resources.memory is nan"),
        ("memory = inf", "resources.memory is inf"),
        ("minutes = -2", "resources.minutes is -2"),
        ("minutes = nan", "resources.minutes is nan"),
        ('exclusive = "yes"', "resources.exclusive is 'yes'"),
    ],
)
def test_resources_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"s\.toml") as refused:
        points(f"[resources]\n{text}\n")
    assert said in str(refused.value)


@given(st.sets(st.text("0123456789abcdef", min_size=20, max_size=20)), st.integers(1, 9), st.data())
def test_tasks_begin_with_every_nth_point_and_go_on_from_the_far_end(
    ids: set[str], tasks: int, data: st.DataObject
) -> None:
    ordered = order(data.draw(st.permutations(sorted(ids))))
    assert ordered == order(ids)
    found = [shares(ordered, task, tasks) for task in range(tasks)]
    assert sorted(point for own, _ in found for point in own) == ordered
    for own, others in found:
        assert {*own, *others} == ids
        assert len(own) + len(others) == len(ids)
        assert own == sorted(own)
        assert others == sorted(others, reverse=True)
        assert len(own) in (len(ids) // tasks, len(ids) // tasks + 1)
