"""Study files: what they may say, and the points they ask for."""

from qrt_tn.studies.config.figures import Figure
from qrt_tn.studies.config.points import Point
from qrt_tn.studies.config.study import Study, load_study, parse_study

__all__ = ["Figure", "Point", "Study", "load_study", "parse_study"]
