"""Tables in every format, and all that is refused rather than misread."""

import gzip
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from qrt_tn.models import tables
from qrt_tn.models.tables import SUFFIXES, check_source, kind_of, read_table, suffix_of


def write(folder, name, content):
    path = folder / name
    if isinstance(content, pd.DataFrame):
        if name.endswith(".xlsx"):
            content.to_excel(path, index=False)
        elif name.endswith(".parquet"):
            content.to_parquet(path)
        else:
            content.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    elif isinstance(content, dict):
        with pd.ExcelWriter(path) as book:
            for sheet, values in content.items():
                pd.DataFrame({"a": values}).to_excel(book, sheet_name=sheet)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def random_frame(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 30))
    makers = [
        lambda: rng.normal(size=rows) * 10.0 ** rng.integers(-9, 9),
        lambda: rng.integers(-(10**6), 10**6, rows),
        lambda: rng.choice(["red", 'a "b", c', "x;y\nz", "é|ü"], rows),
        lambda: np.where(rng.random(rows) < 0.4, np.nan, rng.integers(9, size=rows)),
    ]
    columns = [makers[0]()] + [makers[i]() for i in rng.integers(len(makers), size=rng.integers(1, 6))]
    return pd.DataFrame({f"name, {i}": column for i, column in enumerate(columns)})


def test_importing_the_reader_loads_nothing_heavy():
    code = (
        "import sys, qrt_tn.models.tables\n"
        "heavy = {'jax', 'numpy', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".npz"])
def test_what_pandas_writes_is_read_back(suffix, tmp_path):
    frame = random_frame(0)
    path = write(tmp_path, f"some data{suffix}", frame)
    table = read_table(path)
    assert table.header
    pd.testing.assert_frame_equal(table.frame, frame, check_dtype=False, rtol=1e-14)
    other = path.rename(tmp_path / "misnamed.csv")  # what a file is, its first bytes tell
    if "tsv" not in suffix:
        pd.testing.assert_frame_equal(read_table(other).frame, table.frame)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter_with_and_without_names_and_decimal_commas(delimiter, tmp_path):
    for seed, decimal in enumerate(".." if delimiter == "," else ".,.,"):
        frame, header = random_frame(10 + seed), seed < 2
        text = frame.to_csv(index=False, sep=delimiter, header=header, decimal=decimal)
        numbers = frame.select_dtypes("number")
        kept = [list(frame).index(name) for name in numbers]
        for content in (text, "\ufeff" + text, text.replace("x;y\nz", "x").replace("\n", "\r\n")):
            table = read_table(write(tmp_path, "t.csv", content), None if header else False)
            assert table.header == header
            assert list(table.frame) == (
                list(frame) if header else [f"column {i}" for i in range(frame.shape[1])]
            )
            assert ("decimal commas" in table.how) <= (decimal == ",")
            np.testing.assert_allclose(table.frame.iloc[:, kept].astype(float), numbers, rtol=1e-14)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("a,b\n1,2\n", True),
        ('"1","2"\n"3","4"\n', False),
        ("5.1,Iris\n4.9,Iris\n", False),
        ("1,5\n2,?\n", False),
        ("country,2019,people\nFR,1,2\nDE,3,4\n", True),
        ("0,1,2\n5,6,7\n", True),
        (",0,1,2\n0,5.5,6,7\n", True),
        ("0,1\n5,6\n", False),
        ("-,1\n5,6\n", False),  # a gap above numbers is no name
        ("NA,1\n5,6\n", False),
        ("yes,kind\nTrue,a\nFalse,b\n", True),
    ],
)
def test_headers_are_told(text, header, tmp_path):
    table = read_table(write(tmp_path, "t.csv", text))
    assert table.header == header
    assert len(table.frame) == text.count("\n") - header
    assert read_table(write(tmp_path, "t.csv", text), not header).header == (not header)


def test_gaps_types_and_text_as_it_is_written(tmp_path):
    table = read_table(write(tmp_path, "t.csv", "a,,c\n1, ?,x\nNA,2,\n\n007,,y\n"))
    assert list(table.frame) == ["a", "Unnamed: 1", "c"]
    np.testing.assert_array_equal(table.frame.isna(), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert table.as_written(["c", "a"])["a"].tolist()[::2] == ["1", "007"]
    columns = {"b": [True, False], "c": pd.Categorical(["u", "v"]), "d": pd.to_datetime(["2020-01-01"] * 2)}
    frame = pd.DataFrame({**columns, "t": ["1", "x"], "i": [1, 2]}, index=[7, 9])
    read = read_table(write(tmp_path, "t.parquet", frame)).frame
    kinds = [kind_of(read[name]) for name in read]
    assert kinds == ["booleans", "categories", "dates", "text", "numbers", "numbers"]
    assert list(read.iloc[:, -1]) == [7, 9]
    assert kind_of(pd.Series([True, None])) == "booleans"
    assert kind_of(pd.Series([10**30, 1], dtype=object)) == "numbers"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", "", "empty"),
        ("t.csv", "a,b\n", "empty"),
        ("t.csv", "a,b\n1,2\n3\n", "line 3 has 1 cells, the first 2"),
        ("t.csv", "a,b\n1,2,3\n4,5,6\n", "line 2 has 3 cells, the first 2"),
        ("t.csv", "a,b,a\n1,2,3\n", "named 'a'"),
        ("t.csv", b"PAR1torn", "Parquet"),
        ("t.xlsx", b"PK\x03\x04torn", "xlsx"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 99, mtime=0)[:-5], "gzip"),
        ("t.csv", "a,b\né,2\n".encode("latin1"), "0xe9.*iconv"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
        ("t.csv", 'a,b\n1,"2\n3,4\n', "quotes"),
        ("t.csv", "p,x\ne,y\n", "'p', 'x'.*--header.*--no-header"),
        ("t.csv", "unknown,5,3.2\n1,5,3.2\n", "'unknown', '5', '3.2'.*--no-header"),
        ("t.csv", "a;b\n1,5;2.5\n2;3\n", "decimal commas in column 0.*column 1"),
        ("t.npz", b"", "arrays"),
        ("t.pdf", b"", r"'\.pdf'.*\.csv"),
        ("two.xlsx", {"one": [1, 2], "two": [1, 2]}, "'one', 'two'"),
        ("lists.parquet", pd.DataFrame({"a": [[1], [2]]}), "'a' hold lists"),
    ],
)
def test_what_could_be_misread_is_refused(name, content, told, tmp_path):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=told) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_data_file(tmp_path):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ValueError, match=r"d\.csv is a folder"):
        check_source(tmp_path / "d.csv")
    with pytest.raises(ValueError, match=r"none\.CSV\.gz"):
        check_source(tmp_path / "none.CSV.gz")
    with pytest.raises(ValueError, match="--no-header"):
        read_table(write(tmp_path, "t.parquet", pd.DataFrame({"a": [1]})), header=False)
    assert suffix_of("a.b.TSV.gz") == ".tsv.gz"


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".xlsx", ".parquet"])
def test_what_does_not_fit_is_refused(suffix, tmp_path, monkeypatch):
    path = write(tmp_path, f"t{suffix}", pd.DataFrame({"a": np.zeros(500), "b": np.ones(500)}))
    monkeypatch.setattr(tables, "memory_limit", lambda: 3000)
    with pytest.raises(ValueError, match="a quarter of the free memory"):
        read_table(path)


def test_excel_is_an_extra(tmp_path, monkeypatch):
    path = write(tmp_path, "t.xlsx", pd.DataFrame({"a": [1], "b": [2]}))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"openpyxl.*pip install 'qrt-tn\[excel\]'"):
        read_table(path)
