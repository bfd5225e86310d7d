"""Two runs of one benchmark side by side."""

from qrt_tn.studies.benchmarks.compare.comparison import Comparison, Line, compare
from qrt_tn.studies.benchmarks.compare.intervals import Interval, ratio_interval
from qrt_tn.studies.benchmarks.compare.reading import BenchmarkRun, Quantity, read_run
from qrt_tn.studies.benchmarks.compare.tables import as_json, sentences, sheets

__all__ = [
    "BenchmarkRun",
    "Comparison",
    "Interval",
    "Line",
    "Quantity",
    "as_json",
    "compare",
    "ratio_interval",
    "read_run",
    "sentences",
    "sheets",
]
