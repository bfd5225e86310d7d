import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from qrt_tn.studies.benchmarks.engine import report
from qrt_tn.studies.benchmarks.sheets import as_rich

RATIO = {"median": 2.5, "min": 1.5, "max": 3.5}


def plan(network, method, flops, note=""):
    return {
        "network": network,
        "tensors": 9,
        "method": method,
        "log10_flops": flops,
        "seconds": 0.25,
        "note": note,
    }


def speed(network, method="qrt-tn", bound="GEMM"):
    return {
        "network": network,
        "dtype": "float64",
        "method": method,
        "steps": 5,
        "seconds": 0.0025,
        "bound": bound,
        "share": bound and 0.125,
        "predicted_over_measured": bound and 0.75,
        "against": [
            {"method": "cotengra", "seconds": 0.00625, "ratio": RATIO, "timed": 1.0},
            {"method": "quimb, a loop", "seconds": 2.0, "ratio": RATIO, "timed": 0.5},
        ],
    }


@pytest.fixture
def result():
    over = {name: {"seconds": 1e-6, "ratio": RATIO} for name in ("tensordot", "matmul")}
    return {
        "command": "qrt-tn bench engine",
        "date": "2026-01-02",
        "versions": {"numpy": "2"},
        "machine": {"processor": "Abacus | 9", "cores": 2},
        "threads": {"blas, a.so": 1},
        "quality": [
            plan("net [one]", "qrt-tn", 5.0),
            plan("net [one]", "opt_einsum auto", 6.5),
            plan("net [one]", "cuTensorNet", None, "did not end within 9 s"),
        ],
        "chains": [plan("chain", "qrt-tn", 7.0)],
        "speed": [speed("net [one]"), speed("net [one]", "qrt-tn cupy"), speed("many", bound=None)],
        "overhead": [
            {
                "network": "3 matrices of 4",
                "seconds": 2.5e-6,
                "bound": "copy",
                "share": 0.5,
                "predicted_over_measured": 1.25,
                "over": over,
            }
        ],
    }


def test_every_figure_stands_in_a_table(result):
    plans, speeds, steps = report.sheets(result)
    assert plans.rows == (
        ("net [one]", "9", "qrt-tn", "5.00", "0.25"),
        ("", "", "opt_einsum auto", "6.50", "0.25"),
        ("", "", "cuTensorNet", "did not end within 9 s", "0.25"),
        ("chain", "9", "qrt-tn", "7.00", "0.25"),
    )
    assert speeds.rows[0] == ("net [one]", "qrt-tn", "2.5 ms", "1", "12% of GEMM", "0.75")
    assert speeds.rows[2] == ("", "quimb, a loop", "2 s", "2.50 [1.50, 3.50]", "", "")
    assert speeds.rows[3][:2] == ("", "qrt-tn cupy")
    assert speeds.rows[6] == ("many", "qrt-tn", "2.5 ms", "1", "", "")
    ratio = "2.50 [1.50, 3.50]"
    assert steps.rows == (("3 matrices of 4", "2.5 µs", ratio, ratio, "50% of copy", "1.25"),)


@pytest.mark.parametrize("width", [80, 160])
def test_on_a_console(result, width):
    console = Console(file=io.StringIO(), width=width)
    for sheet in report.sheets(result):
        console.print(as_rich(sheet))
    text = console.file.getvalue()
    assert "net [one]" in text
    assert text.count("2.50 [1.50, 3.50]") == 8
    assert max(map(len, text.splitlines())) <= width


def test_in_markdown(result):
    text = report.as_markdown(result)
    assert "1 thread of linear algebra, 2026-01-02. numpy 2." in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(tables) == 2 * 3 + 4 + 9 + 1


def test_as_a_plot(result, tmp_path):
    path = tmp_path / "engine.svg"
    report.draw(result, path)
    words = "".join(ET.parse(path).getroot().itertext())
    for word in ("Plans", "Small steps", "net [one] (cupy)", "opt_einsum auto", "cotengra", "tensordot"):
        assert word in words
    again = tmp_path / "again.svg"
    report.draw(result, again)
    assert path.read_bytes() == again.read_bytes()
