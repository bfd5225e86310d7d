"""Stores of studies: one folder, one file a finished point, shared by any number of runs."""

from qrt_tn.studies.store.records import DiskFullError
from qrt_tn.studies.store.study import StudyStore

__all__ = ["DiskFullError", "StudyStore"]
