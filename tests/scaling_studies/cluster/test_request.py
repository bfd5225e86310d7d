"""Options of a submission: times as SLURM reads them, and what is refused."""

import pytest

from qrt_tn.studies.cluster import Request, minutes


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
    "options",
    [
        {"gpus": "-1"},
        {"gpus": "a100"},
        {"gpus": "a100:1:2"},
        {"partition": "a\nb"},
        {"account": " "},
        {"sbatch": ("reservation=x",)},
        {"sbatch": ("--comment=a\n--array=7",)},
        {"setup": ("a\nb",)},
        {"time": 2, "grace": 90},
    ],
)
def test_refused_options(options):
    (name, *_), (value, *_) = options.keys(), options.values()
    with pytest.raises(ValueError, match=name) as refused:
        Request(**options)
    assert repr(value[0] if isinstance(value, tuple) else value) in str(refused.value)
