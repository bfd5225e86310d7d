"""From the folder of a lottery study to figures and one self-contained page."""

from qrt_tn.studies.report.lottery.figures import draw_all
from qrt_tn.studies.report.lottery.folder import LotteryFolder, load
from qrt_tn.studies.report.lottery.page import write

__all__ = ["LotteryFolder", "draw_all", "load", "write"]
