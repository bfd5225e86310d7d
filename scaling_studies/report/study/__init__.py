"""From the records of a study to figures and one self-contained page."""

from scaling_studies.report.study.page import write

__all__ = ["write"]
