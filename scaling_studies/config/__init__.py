"""Study files: what they may say, and the points they ask for."""

from scaling_studies.config.figures import Figure
from scaling_studies.config.points import Point, Resources
from scaling_studies.config.study import Study, load_study, parse_study

__all__ = ["Figure", "Point", "Resources", "Study", "load_study", "parse_study"]
