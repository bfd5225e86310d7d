"""From a ticket folder to figures and one self-contained page."""

from scaling_studies.report.figures import draw_all
from scaling_studies.report.folder import TicketFolder, load
from scaling_studies.report.page import write

__all__ = ["TicketFolder", "draw_all", "load", "write"]
