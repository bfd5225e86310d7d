"""What one lottery ticket of a study is asked for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, Table

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
    """Parameters of the sparse networks of one dense network: tickets, and controls of them.

    A point trains the dense network of its seed once, and prunes it straight down to each share by each
    method, so that a sweep over shares needs no point of another.
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
    methods: list[Method] = Field(["imp"], min_length=1)
    """"imp": iterative magnitude pruning, the ticket. All others are controls of qrt_tn.models.lottery."""
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.2], min_length=1)
    """What is left of dense layers, or of convolutions where the preset leaves dense layers whole. Other
    layers lose what they would at the preset's rates by then, so that shares do not depend on the rounds."""
    rounds: list[Annotated[int, Field(ge=1, le=100)]] = Field([5], min_length=1)
    """Of training and pruning on the way there. Methods that prune at once need only the first training."""
    rewind: list[Annotated[int, Field(ge=0)] | Literal["rate"]] = Field([0], min_length=1)
    """The iteration whose weights survivors go back to, a multiple of evaluate_every; "rate" where only the
    schedule of the learning rate goes back."""

    @model_validator(mode="after")
    def _once(self) -> "Lottery":
        for name in ("methods", "shares", "rounds", "rewind"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {values} with one twice; give each once")
        return self


_ACCURACY = {
    "accuracy": Metric("test accuracy"),
    "validation_loss": Metric("validation loss at the early stop"),
    "early_iteration": Metric("iteration of the early stop"),
    "weights": Metric("weights left"),
}
EXPERIMENT = Experiment(
    name="lottery",
    summary="lottery tickets, and controls of them, against the dense network of their seed",
    settings=Lottery,
    function="qrt_tn.studies.experiments.lottery.point:measure",
    tables={
        "sparse": Table(
            ("method", "share", "pruning_rounds", "back_to"),
            {
                **_ACCURACY,
                "gain": Metric("test accuracy above the dense network's"),
                "early_ratio": Metric("early stop over that of the dense network"),
                "remaining": Metric("share of all prunable weights left"),
            },
        ),
        "dense": Table(
            (),
            {
                **_ACCURACY,
                "trainings": Metric("networks trained"),
                "training_seconds": Metric("seconds of training", "s", measured=True),
            },
        ),
    },
    revision=2,
    labels={
        "points": "training points",
        "share": "share of weights to leave",
        "pruning_rounds": "rounds of pruning",
        "back_to": "iteration rewound to",
        "iterations": "iterations of a training",
    },
)
