"""SLURM: what is sent there, how it fares, and how it is taken back."""

from scaling_studies.cluster.cancel import Cancelled, cancel
from scaling_studies.cluster.request import Request, minutes, setup_lines
from scaling_studies.cluster.submission import Submission, submissions
from scaling_studies.cluster.submit import pending, preview, submit
from scaling_studies.cluster.tasks import Tasks, tasks_of

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
