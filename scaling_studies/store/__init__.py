"""Stores of studies: one folder, one file a finished point, shared by any number of runners."""

from scaling_studies.store.claims import Claims
from scaling_studies.store.records import DiskFullError
from scaling_studies.store.study import StudyStore

__all__ = ["Claims", "DiskFullError", "StudyStore"]
