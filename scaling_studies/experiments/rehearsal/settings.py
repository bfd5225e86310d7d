"""What a rehearsal is asked to do."""

from typing import Literal

from pydantic import Field

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row


class Rehearsal(Settings):
    """Parameters of one rehearsed point."""

    label: str = ""
    number: int = 0
    seconds: float = Field(0.1, ge=0, le=86_400)
    steps: int = Field(1, ge=1, le=10**6)
    """The time is passed in so many steps; the step reached is kept, so a killed point goes on there."""
    megabytes: int = Field(0, ge=0, le=10**6)
    ending: Literal["well", "error", "exit", "kill", "nan", "unavailable"] = "well"


EXPERIMENT = Experiment(
    name="rehearsal",
    summary="passes the time, to try out a machine or a cluster",
    settings=Rehearsal,
    function="qrt_tn.studies.experiments.rehearsal.run:rehearse",
    tables=one_row(
        {
            "value": Metric("a number that depends on parameters and seed alone"),
            "ranks": Metric("MPI ranks that took part"),
            "resumed": Metric("step at which it went on", measured=True),
            "gpus_seen": Metric("GPUs shown to the point", measured=True),
            "seconds_passed": Metric("time passed", "s", measured=True),
        }
    ),
)
