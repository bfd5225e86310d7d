"""From a ticket folder to figures and one self-contained page."""

from scaling_studies.report.figures import draw_all
from scaling_studies.report.folder import TicketFolder, load
from scaling_studies.report.page import write
from scaling_studies.report.state_panels import draw_state

__all__ = ["TicketFolder", "draw_all", "draw_state", "load", "write"]
