"""Runs the points of a study on this machine: each in a process of its own, several beside each other."""

from qrt_tn.studies.runner.room import Room
from qrt_tn.studies.runner.run import Summary, run_point, run_study

__all__ = ["Room", "Summary", "run_point", "run_study"]
