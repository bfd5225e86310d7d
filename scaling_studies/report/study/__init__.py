"""From the records of a study to figures and one self-contained page."""

from qrt_tn.studies.report.study.page import write

__all__ = ["write"]
