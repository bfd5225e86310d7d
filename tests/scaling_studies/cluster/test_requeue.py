"""A task that was stopped goes back into the queue, but not for ever."""

import os
import re

import pytest

from qrt_tn.studies.cluster.requeue import requeue


@pytest.mark.parametrize(
    ("environment", "answer", "asked", "said"),
    [
        ({"SLURM_JOB_ID": "9"}, 0, [["requeue", "9"]], "after 0 restarts so far"),
        (
            {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
            0,
            [["requeue", "7_3"]],
            "back in the queue",
        ),
        ({"SLURM_JOB_ID": "9", "SLURM_RESTART_COUNT": "1"}, 1, [["requeue", "9"]], "submit the study again"),
        ({"SLURM_JOB_ID": "9", "SLURM_RESTART_COUNT": "2"}, 0, [], "after 2 restarts.*gives up"),
        ({}, 0, [], "no job of SLURM"),
    ],
)
def test_requeue(slurm, monkeypatch, environment, answer, asked, said):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    slurm.tell(scontrol=[[answer, "what SLURM says"]])
    lines = []
    requeue(2, lines.append)
    assert slurm.calls("scontrol") == asked
    assert re.search(said, "\n".join(lines))
