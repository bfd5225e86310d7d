"""From a ticket folder to figures and one self-contained page."""

from qrt_tn.studies.report.figures import draw_all
from qrt_tn.studies.report.folder import TicketFolder, load
from qrt_tn.studies.report.page import write
from qrt_tn.studies.report.state_panels import draw_state

__all__ = ["TicketFolder", "draw_all", "draw_state", "load", "write"]
