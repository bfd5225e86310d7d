"""SLURM: what is sent there, how it fares, and how it is taken back."""

from qrt_tn.studies.cluster.cancel import Cancelled, cancel
from qrt_tn.studies.cluster.request import Request, minutes, setup_lines
from qrt_tn.studies.cluster.submission import Submission, submissions
from qrt_tn.studies.cluster.submit import pending, preview, submit
from qrt_tn.studies.cluster.tasks import Tasks, tasks_of

__all__ = [
    "Cancelled",
    "Request",
    "Submission",
    "Tasks",
    "cancel",
    "minutes",
    "pending",
    "preview",
    "setup_lines",
    "submissions",
    "submit",
    "tasks_of",
]
