"""What one lottery ticket of a study is asked for."""

from typing import Literal

from pydantic import Field

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row

# those of qrt_tn.models.lottery.PRESETS, which is not imported here: this room is read at every call
Preset = Literal[
    "quick",
    "lenet",
    "conv2",
    "conv4",
    "conv6",
    "resnet20",
    "resnet20-warmup",
    "vgg19",
    "vgg19-warmup",
]
Method = Literal[
    "imp",
    "reinit",
    "sign-reinit",
    "random",
    "oneshot",
    "oneshot-reinit",
    "magnitude-init",
    "snip",
    "synflow",
]


class Lottery(Settings):
    """Parameters of one sparse network: a ticket, or a control of one.

    A point prunes straight down to its share, so a sweep over shares needs no point of another. Each trains
    the dense network of its seed as well, to be set against it.
    """

    preset: Preset = "quick"
    """Architecture, recipe and rates; models.lottery names the values that are from memory, unverified."""
    data: str = ""
    """A set of images or the path of one; empty for the preset's."""
    points: int = Field(0, ge=0)
    """Training points; 0 for all that validation leaves."""
    validation: int = Field(0, ge=0)
    """Points set aside to choose the early stop; 0 for the preset's."""
    split: int = Field(0, ge=0)
    """Seed of the split into training and validation points, the same for all seeds of a study."""
    iterations: int = Field(0, ge=0)
    """Of each training; 0 for the preset's. Likewise the next."""
    evaluate_every: int = Field(0, ge=0)
    method: Method = "imp"
    """"imp": iterative magnitude pruning, the ticket. All others are controls of qrt_tn.models.lottery."""
    share: float = Field(0.2, gt=0, lt=1)
    """What is left of dense layers, or of convolutions where the preset leaves dense layers whole. Other
    layers lose what they would at the preset's rates by then, so that shares do not depend on the rounds."""
    rounds: int = Field(5, ge=1, le=100)
    """Of training and pruning on the way there. Methods that prune at once need only the first training."""
    rewinding: Literal["weights", "rate"] = "weights"
    """Survivors go back to earlier weights, or only the schedule of the learning rate goes back."""
    rewind: int = Field(0, ge=0)
    """The iteration they go back to, a multiple of evaluate_every."""


EXPERIMENT = Experiment(
    name="lottery",
    summary="a lottery ticket, or a control of one, against the dense network of its seed",
    settings=Lottery,
    function="qrt_tn.studies.experiments.lottery.point:measure",
    tables=one_row(
        {
            "accuracy": Metric("test accuracy"),
            "accuracy_dense": Metric("test accuracy of the dense network"),
            "gain": Metric("test accuracy above the dense network's"),
            "validation_loss": Metric("validation loss at the early stop"),
            "early_iteration": Metric("iteration of the early stop"),
            "early_ratio": Metric("early stop over that of the dense network"),
            "remaining": Metric("share of all prunable weights left"),
            "weights": Metric("weights left"),
            "smallest_share": Metric("smallest share, of the rounds, as good as dense in validation"),
            "trainings": Metric("networks trained"),
            "training_seconds": Metric("seconds of training", "s", measured=True),
        }
    ),
    labels={
        "points": "training points",
        "share": "share of weights to leave",
        "rounds": "rounds of pruning",
        "rewind": "iteration rewound to",
        "iterations": "iterations of a training",
    },
)
