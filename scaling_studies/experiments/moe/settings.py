"""What one pruned mixture of experts of a study is asked for."""

from typing import Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row

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


class Moe(Settings):
    """Parameters of one vision transformer with experts: pre-trained, fine-tuned, and then pruned.

    A point prunes by one criterion, and at random besides, which costs evaluations alone: what a criterion
    gains is always told of the same network.
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
    criterion: Criterion = "router-change"
    """Which experts go; "merge" merges instead, whatever the mode."""
    mode: Literal["keep-router", "drop-router", "renormalize"] = "keep-router"
    """What becomes of the columns of the router that led to them."""
    pruned: int = Field(4, ge=1)
    """How many experts of each block go."""
    draws: int = Field(5, ge=1, le=1000)
    """Of random pruning, whose mean counts."""
    tune_steps: int = Field(0, ge=0)
    """Of fine-tuning after pruning; 0 for none. Of "random" the first draw is fine-tuned."""

    @model_validator(mode="after")
    def _possible(self) -> "Moe":
        token_choice = self.router == "token-choice"
        if token_choice and self.selected > self.experts:
            raise ValueError(f"a token cannot go to {self.selected} of {self.experts} experts")
        chosen = self.selected if token_choice else 1
        keeps = self.mode == "keep-router" and self.criterion != "reconstruction"
        least = 1 if keeps or self.criterion == "merge" else chosen
        if self.experts - self.pruned < least:
            raise ValueError(
                f"{self.pruned} of {self.experts} experts cannot go, since at least {least} must be left; "
                f"prune at most {self.experts - least}"
            )
        if self.criterion == "reconstruction" and not token_choice:
            raise ValueError("the criterion 'reconstruction' is defined for token choice; take another")
        if self.criterion == "frequency" and not token_choice:
            raise ValueError(
                "the criterion 'frequency' tells nothing where experts choose, since each takes as many"
                " tokens; take another"
            )
        return self


EXPERIMENT = Experiment(
    name="moe",
    summary="a vision transformer whose experts are pruned by a criterion, against random pruning",
    settings=Moe,
    function="qrt_tn.studies.experiments.moe.point:measure",
    tables=one_row(
        {
            "accuracy": Metric("test accuracy after pruning"),
            "accuracy_before": Metric("test accuracy before pruning"),
            "accuracy_random": Metric("test accuracy after random pruning, mean"),
            "accuracy_tuned": Metric("test accuracy after pruning and fine-tuning"),
            "gain": Metric("test accuracy above random pruning"),
            "loss": Metric("test accuracy lost by pruning"),
            "pretrained_accuracy": Metric("test accuracy after pre-training, on its own set"),
            "pruned_share": Metric("share of experts pruned"),
            "parameters": Metric("parameters left"),
            "parameters_left": Metric("share of parameters left"),
            "flops": Metric("operations for an image", "flop"),
            "flops_left": Metric("share of operations left"),
            "training_seconds": Metric("seconds of training", "s", measured=True),
        }
    ),
    labels={
        "experts": "experts of a block",
        "selected": "experts that a token goes to",
        "pruned": "experts pruned of each block",
        "finetune_points": "images of fine-tuning",
    },
)
