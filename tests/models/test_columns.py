"""Columns of tables as coordinates, and the choice of target, task and features."""

import json

import numpy as np
import pandas as pd
import pytest

from qrt_tn.models.columns import Column, Columns
from qrt_tn.models.features import choose_columns
from qrt_tn.models.tables import Table
from qrt_tn.models.targets import read_targets, reading

RNG = np.random.default_rng(0)
KINDS = [f"k{i % 2}" for i in range(12)]
NUMBERS = RNG.normal(size=12)


def plants(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": rng.permutation(rows) + 7,
            "age": np.where(np.arange(rows) % 5 == 1, np.nan, rng.normal(size=rows)),
            "colour": np.where(np.arange(rows) % 7 == 2, None, rng.choice(["red", "blue", "green"], rows)),
            "wild": np.arange(rows) % 3 == 0,
            "same": 3,
            "height": rng.normal(size=rows),
        }
    )


def choose(frame, header=True, **options):
    return choose_columns(Table(frame, header), **options)


@pytest.mark.parametrize("encode", ["onehot", "ordinal"])
def test_coordinates_are_those_of_a_plain_loop_by_name_and_after_json(encode):
    frame = plants()
    chosen = choose(frame, encode=encode, impute=True)
    known = ["blue", "green", "red"]
    rows = []
    for age, colour, wild in zip(frame["age"], frame["colour"], frame["wild"], strict=True):
        if encode == "onehot":
            middle = [float(colour == name) for name in known] + [float(not isinstance(colour, str))]
        else:
            middle = [float(known.index(colour)) if isinstance(colour, str) else np.nan]
        rows.append([age, *middle, float(wild)])
    np.testing.assert_array_equal(chosen.x, rows)
    np.testing.assert_array_equal(chosen.targets.y[:, 0], frame["height"])
    colours = ("colour=blue", "colour=green", "colour=red", "colour=(missing)")
    assert chosen.columns.names == ("age", *(colours if encode == "onehot" else ["colour"]), "wild")
    assert [name for name, _ in chosen.left_out] == ["id", "same"]
    columns = Columns.from_json(json.loads(json.dumps(chosen.columns.to_json())))
    assert columns == chosen.columns
    for order in (["age", "wild", "colour", "more", "height"], ["more", "colour", "wild", "age"]):
        other = frame.assign(more="x")[order]
        np.testing.assert_array_equal(columns.matrix(other), chosen.x)
        assert columns.ignored(other) == ("more",)


@pytest.mark.parametrize("target", [0, 2, 4])
def test_columns_without_names_are_found_by_position(target):
    frame = pd.DataFrame(RNG.normal(size=(9, 5)), columns=[f"column {i}" for i in range(5)])
    chosen = choose(frame, header=False, target=str(target), drop=["1"])
    kept = [i for i in range(5) if i not in (1, target)]
    bare = frame.drop(columns=f"column {target}").set_axis([f"column {i}" for i in range(4)], axis=1)
    columns = chosen.columns
    for found in (chosen.x, columns.matrix(bare), columns.matrix(frame.iloc[:, kept])):
        np.testing.assert_array_equal(found, frame.iloc[:, kept])
    assert columns.ignored(frame) == ("column 1",)
    assert columns.ignored(bare) == (f"column {1 - (target < 1)}",)
    with pytest.raises(ValueError, match="2 columns without names; give 5"):
        columns.matrix(bare.iloc[:, :2])


def test_categories_are_spelt_alike_whatever_else_is_in_the_file():
    column = Column("grade", ("1", "2", "2.5", "x"), "ordinal")
    for values in ([1, 2], [1.0, 2.0], ["1", "2"], pd.Series([1, 2], dtype=object)):
        np.testing.assert_array_equal(column.coordinates(pd.Series(values)), [[0], [1]])
    np.testing.assert_array_equal(column.coordinates(pd.Series([2.5, None])), [[2], [np.nan]])
    unseen = Column("grade", ("1", "2"), "onehot").coordinates(pd.Series(["1", "9", None]))
    np.testing.assert_array_equal(unseen, [[1, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ({"a": [1.0]}, "'b', 'c'.* has 'a'"),
        ({"a": [1.0, 2.0], "b": [1, 2], "c": ["red", "green"]}, "'c' holds 'green' in row 1.*'blue', 'red'"),
        ({"a": ["1.5", "tall"], "b": 2.0, "c": "red"}, "'a' holds 'tall' in row 1"),
        ({"a": [1.5, np.inf], "b": 2.0, "c": "red"}, "'a' holds 'inf' in row 1"),
        ({"a": pd.to_datetime(["2020-01-01"]), "b": 2.0, "c": "red"}, "'a' holds '2020-01-01 00:00:00'"),
    ],
)
def test_tables_that_do_not_fit_are_named(frame, told):
    columns = Columns((Column("a"), Column("b"), Column("c", ("blue", "red"), "ordinal")), "y", True)
    with pytest.raises(ValueError, match=told):
        columns.matrix(pd.DataFrame(frame))


def test_json_of_something_else_is_refused():
    whole = {"features": [{"name": "a"}], "target": "y", "header": False, "width": 2}
    assert Columns.from_json(whole).names == ("a",)
    for changes in ({"features": [{"name": 3}]}, {"features": None}, {"target": None}, {"more": 1}):
        with pytest.raises((LookupError, TypeError, ValueError)):
            Columns.from_json(whole | changes)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["a", "b", "a"], "classification, 2 classes (a, b)"),
        ([True, False], "classification, 2 classes (False, True)"),
        (pd.Categorical([3, 1]), "classification, 2 classes (1, 3)"),
        ([1.0, 2.0] * 3, "classification, 2 classes (1, 2)"),
        (list(range(20)) * 3, "classification, 20 classes (0, 1, 2, 3, 4, 5, ...)"),
        ([0.5, 1, 2] * 6, "regression (18 values from 0.5 to 2)"),
        (list(range(278, 456)), "regression (178 values from 278 to 455)"),
        ([1, 1, 1, 2, 2], "regression (5 values from 1 to 2)"),
        ([1, 1.5] * 6, "it holds 2 different .* --task classification .*--task regression"),
        (list(range(21)) * 3, "it holds 21 different whole .* --task classification .*--task regression"),
        ([1, 1, 1, 2, 2, 2, 3, 3], "it holds 3 different whole numbers"),
        ([1, None, None], "it is missing in 2 of 3 rows"),
        ([1, np.inf], "it holds inf"),
    ],
)
def test_what_a_target_is(values, told):
    if told.startswith("it "):
        with pytest.raises(ValueError, match=told):
            read_targets(pd.Series(values), "it")
    else:
        assert reading(pd.Series(values)) == told


def test_the_usual_names_are_targets_and_else_the_last_column():
    for names, target in (("abc", "c"), (["a", "Label", "c"], "Label"), (["y", "b", "id"], "y")):
        frame = pd.DataFrame(RNG.normal(size=(8, 3)), columns=list(names))
        assert choose(frame).columns.target == target


@pytest.mark.parametrize(
    ("name", "values", "out"),
    [
        ("row", range(12), True),
        ("row", np.arange(12)[::-1] + 100.0, True),
        ("row", np.arange(12) * 2, False),
        ("customer_id", np.arange(12) * 2, True),
        ("Unnamed: 0", np.arange(12) * 2, True),
        ("No", np.arange(12) ** 2, True),
        ("No", np.arange(12) / 2, False),
        ("No", [3, *range(11)], False),
        ("gap", [None] * 12, True),
    ],
)
def test_columns_that_number_the_rows_are_left_out(name, values, out):
    chosen = choose(pd.DataFrame({name: values, "a": NUMBERS, "y": KINDS}))
    assert [left for left, _ in chosen.left_out] == [name] * out


@pytest.mark.parametrize(
    ("columns", "options", "told"),
    [
        ({"a": KINDS, "b": KINDS, "y": NUMBERS}, {}, r"'a' \(such as 'k0'\).*onehot.*--drop a,b"),
        ({"a, b": KINDS, "it's": KINDS, "y": NUMBERS}, {}, r"""--drop '0,it'"'"'s'$"""),
        ({"a": pd.to_datetime(["2020-01-01", "2020-01-02"] * 6), "y": NUMBERS}, {}, "such as '2020-01-01"),
        ({"a": [None, *NUMBERS[1:]], "y": NUMBERS}, {}, r"'a' \(1\) of 12 rows.*--impute mean.*--drop a"),
        ({"a": [*KINDS[:-1], None], "y": NUMBERS}, {"encode": "ordinal"}, r"'a' \(1\)"),
        (
            {"a": ["7 yrs", *NUMBERS[1:].astype(str)], "y": KINDS},
            {"encode": "onehot"},
            "1 of its 12.*'7 yrs'",
        ),
        ({"a": NUMBERS, "y": [*KINDS[:-2], None, None]}, {}, "'y' is missing in 2 of 12 rows"),
        ({"a": NUMBERS, "y": KINDS}, {"task": "regression"}, "'y' holds text .'k0'"),
        ({"y": NUMBERS, "label": KINDS, "a": NUMBERS}, {}, "'y', 'label'.*--target"),
        ({"a": NUMBERS}, {}, "one column, 'a'"),
        ({"a": NUMBERS, "y": KINDS}, {"drop": ["a", "y"]}, "no columns left"),
        ({"a": [1] * 12, "y": KINDS}, {}, "'a' .the same value"),
        ({"a": [np.inf, *NUMBERS[1:]], "y": KINDS}, {}, "'a' holds 'inf'"),
        ({"a": NUMBERS, "y": KINDS}, {"target": "z"}, "'z' for target; it has 'a', 'y'"),
        ({"a": NUMBERS, "y": KINDS}, {"drop": ["-3"]}, "'-3' for drop"),
    ],
)
def test_tables_that_could_be_misread_are_refused(columns, options, told):
    with pytest.raises(ValueError, match=told) as caught:
        choose(pd.DataFrame(columns), name="t.csv", **options)
    assert str(caught.value).startswith("t.csv")
    assert "\n" not in str(caught.value)
