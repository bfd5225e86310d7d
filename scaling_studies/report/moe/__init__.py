"""From the folder of a mixture-of-experts study to figures and one self-contained page."""

from qrt_tn.studies.report.moe.figures import draw_all
from qrt_tn.studies.report.moe.folder import MoeFolder, load
from qrt_tn.studies.report.moe.page import write

__all__ = ["MoeFolder", "draw_all", "load", "write"]
