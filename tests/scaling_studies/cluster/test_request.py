"""Options of a submission: times as SLURM reads them, and what is refused."""

import pytest

from qrt_tn.studies.cluster import Request, minutes, setup_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    # the forms of `man sbatch`, --time
    [
        ("30", 30),
        ("90:00", 90),
        ("0:30", 1),
        ("2:00:00", 120),
        ("1:00:01", 61),
        ("1-0", 1440),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("2-00:00:30", 2881),
    ],
)
def test_times(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "1:2:3:4", "-5", "1h", "0", "0:00", "1-", "1.5"])
def test_refused_times(text):
    with pytest.raises(ValueError, match="time is"):
        minutes(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": -1}, "gpus is -1; give a whole number, at least 0"),
        ({"tasks": 0}, "tasks is 0; give a whole number, at least 1"),
        ({"memory": "16 GB"}, "memory is '16 GB'; give a number and a unit"),
        ({"partition": "a\nb"}, "partition is 'a\\\\nb'; give one line"),
        ({"account": " "}, "account is ' '"),
        ({"via": "dask"}, "via is 'dask'; choose from sbatch, submitit"),
        ({"time": 2, "grace": 120}, "told to stop as it starts; give more time, or less grace"),
    ],
)
def test_refused_options(options, said):
    with pytest.raises(ValueError, match=said):
        Request(**options)


def test_setup(tmp_path):
    file = tmp_path / "it's here.env"
    file.touch()
    lines = setup_lines(("cuda/13",), str(file), ("export A='b c'",))
    assert lines == (
        "module load cuda/13",
        "set -a",
        f""". '{tmp_path}/it'"'"'s here.env'""",
        "set +a",
        "export A='b c'",
    )


def test_refused_setup(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*missing; give a file of NAME=value lines"):
        setup_lines((), str(tmp_path / "missing"), ())
    with pytest.raises(ValueError, match="is not one line of shell"):
        setup_lines((), None, ("a\nb",))
