"""What one pruned mixture of experts of a study is asked for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, Table

# those of models.moe.CRITERIA and merging; models.moe is not imported here: this room is read at every call
Criterion = Literal[
    "router-change",
    "router-change-abs",
    "router-difference",
    "router-norm",
    "expert-norm",
    "stable-rank",
    "aimer",
    "frequency",
    "gate-mass",
    "activation-sum",
    "activation-mean",
    "weighted-activation",
    "reap",
    "random",
    "reconstruction",
    "merge",
]
Mode = Literal["keep-router", "drop-router", "renormalize"]
RANDOM = "random"


class Moe(Settings):
    """Parameters of one vision transformer with experts: pre-trained, fine-tuned, and then pruned.

    A point prunes its one network in every way that is asked for, and at random besides, which costs
    evaluations alone: what a criterion gains is always told of the same network.
    """

    preset: Literal["quick", "small"] = "quick"
    """Shape, data and recipe, as `qrt-tn moe study` has them; what follows changes it where it is not 0."""
    pretrain: str = ""
    """A set of images, perhaps some classes, as "digits:0-4"; empty for the preset's. Likewise the next."""
    finetune: str = ""
    pretrain_points: int = Field(0, ge=0)
    finetune_points: int = Field(0, ge=0)
    pretrain_steps: int = Field(0, ge=0)
    finetune_steps: int = Field(0, ge=0)
    hidden: int = Field(0, ge=0)
    mlp: int = Field(0, ge=0)
    layers: int = Field(0, ge=0)
    """Encoder blocks, all with experts."""
    router: Literal["token-choice", "expert-choice"] = "token-choice"
    experts: int = Field(8, ge=2, le=1024)
    """Of each block."""
    selected: int = Field(2, ge=1)
    """K, the experts that a token goes to in token choice."""
    criteria: list[Criterion] = Field(["router-change"], min_length=1)
    """Which experts go; "merge" merges instead, whatever the mode."""
    modes: list[Mode] = Field(["keep-router"], min_length=1)
    """What becomes of the columns of the router that led to them."""
    prune: list[Annotated[int, Field(ge=1)]] = Field([4], min_length=1)
    """How many experts of each block go, each number in turn."""
    draws: int = Field(5, ge=1, le=1000)
    """Of random pruning, whose mean counts."""
    tune_steps: int = Field(0, ge=0)
    """Of fine-tuning after pruning, in the mode of Chowdhury et al., of the first random draw; 0: none."""

    @model_validator(mode="after")
    def _possible(self) -> "Moe":
        token_choice = self.router == "token-choice"
        if token_choice and self.selected > self.experts:
            raise ValueError(f"a token cannot go to {self.selected} of {self.experts} experts")
        chosen = self.selected if token_choice else 1
        keeps = set(self.modes) == {"keep-router"} and "reconstruction" not in self.criteria
        least = 1 if keeps else chosen
        if self.experts - max(self.prune) < least:
            raise ValueError(
                f"{max(self.prune)} of {self.experts} experts cannot go, since at least {least} must be left;"
                f" prune at most {self.experts - least}"
            )
        if "reconstruction" in self.criteria and not token_choice:
            raise ValueError("the criterion 'reconstruction' is defined for token choice; take another")
        if "frequency" in self.criteria and not token_choice:
            raise ValueError(
                "the criterion 'frequency' tells nothing where experts choose, since each takes as many"
                " tokens; take another"
            )
        return self


EXPERIMENT = Experiment(
    name="moe",
    summary="a vision transformer whose experts are pruned by criteria, against random pruning",
    settings=Moe,
    function="qrt_tn.studies.experiments.moe.point:measure",
    tables={
        "pruned": Table(
            ("criterion", "mode", "pruned"),
            {
                "accuracy": Metric("test accuracy"),
                "finetuned_accuracy": Metric("test accuracy after pruning and fine-tuning"),
                "gain": Metric("test accuracy above random pruning"),
                "loss": Metric("test accuracy lost by pruning"),
                "ratio": Metric("share of experts pruned"),
                "parameters": Metric("parameters"),
                "parameters_left": Metric("share of parameters left"),
                "bytes": Metric("bytes of the parameters", "B"),
                "flops": Metric("operations for an image", "flop"),
                "flops_left": Metric("share of operations left"),
            },
        ),
        "networks": Table(
            (),
            {
                "accuracy": Metric("test accuracy"),
                "pretrained_accuracy": Metric("test accuracy after pre-training, on its own set"),
                "parameters": Metric("parameters"),
                "seconds": Metric("seconds of training", "s", measured=True),
            },
        ),
    },
    revision=2,
    labels={
        "experts": "experts of a block",
        "selected": "experts that a token goes to",
        "pruned": "experts pruned of each block",
        "finetune_points": "images of fine-tuning",
    },
)
