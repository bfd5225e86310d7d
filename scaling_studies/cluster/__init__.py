"""SLURM: what is sent there, how it fares, and how it is taken back."""

from qrt_tn.studies.cluster.cancel import cancel
from qrt_tn.studies.cluster.request import Request, minutes
from qrt_tn.studies.cluster.submission import Submission, submissions
from qrt_tn.studies.cluster.submit import pending, preview, submit
from qrt_tn.studies.cluster.tasks import LIVE, Tasks, tasks_of

__all__ = [
    "LIVE",
    "Request",
    "Submission",
    "Tasks",
    "cancel",
    "minutes",
    "pending",
    "preview",
    "submissions",
    "submit",
    "tasks_of",
]
