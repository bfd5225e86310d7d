"""What a run of `qrt-tn moe study` is asked to do, checked before any of it starts."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from qrt_tn.models.moe.config import ROUTERS, RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.criteria import CRITERIA, find_criterion
from qrt_tn.models.moe.pruning import MODES
from qrt_tn.models.moe.training import MoeRecipe
from qrt_tn.models.settings import settings
from qrt_tn.studies.experiments.moe.data import parse_spec
from qrt_tn.studies.experiments.settings import Count, EachOnce, assignments, each_once, one_of

MERGE = "merge"  # beside the criteria, a way to have fewer experts, and its mode
EVERY_CRITERION = (*CRITERIA, MERGE)
OF_NETWORKS = (  # what trained networks depend on; all else may change between two calls for one folder
    *("pretrain", "finetune", "pretrain_points", "finetune_points", "test_points", "patch", "hidden"),
    *("layers", "mlp", "heads", "moe_layers", "experts", "classifier", "same_experts", "selected"),
    *("softmax", "capacity_factor", "expert_capacity", "noise_std", "importance_weight", "load_weight"),
    *("pretrain_steps", "finetune_steps", "batch_size", "learning_rate", "weight_decay"),
)


@settings
class MoeStudyConfig:
    """Settings of `qrt-tn moe study`; those of the preset "quick" unless given.

    The settings of "quick" were chosen by two things only: the accuracy of the fine-tuned networks, and how
    much of it *random* pruning costs. Where blocks are many, or not all of their MLPs are experts, six of
    eight experts can go at random for next to nothing, and no criterion could be told from another. No
    setting was chosen by how well any criterion does. They are settings under which experts matter, then,
    not those of the published networks: fewer blocks, all of them with experts that do not begin alike.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    name: str = "quick"
    """Of the preset."""
    pretrain: str = "digits:0-4"
    """The set to pre-train on, as models.images names it or by its path, perhaps with classes."""
    finetune: str = "digits:5-9"
    """The set to fine-tune on, likewise, with images of the same shape."""
    pretrain_points: int | None = 600
    """Training images of the one; None for all but one. The next is of the other; its rest joins the test."""
    finetune_points: int | None = 600
    test_points: Count = 2000
    """The most images that accuracies are measured on."""
    calibration_images: Count = 256
    """Of the fine-tuning set's training images, for criteria that look at activations."""
    seeds: Count = 3
    """Networks of each kind of router; each seed draws weights, order and training images."""
    routers: EachOnce[Annotated[str, one_of(ROUTERS)]] = ROUTERS
    criteria: EachOnce[str] = EVERY_CRITERION
    """Names of qrt_tn.models.moe.criteria.CRITERIA, and "merge"."""
    modes: EachOnce[Annotated[str, one_of(MODES)]] = MODES
    prune: EachOnce[Count] = (2, 4, 6)
    """How many experts of each layer go, each number in turn."""
    random_draws: Count = 5
    """How often "random" is drawn for each network and number."""
    patch: int = 2
    """Shape of the networks, as in models.moe.VisionMoeConfig and RouterConfig."""
    hidden: int = 32
    layers: int = 2
    mlp: int = 64
    heads: int = 4
    moe_layers: tuple[int, ...] = (0, 1)
    experts: int = 8
    classifier: str = "gap"
    same_experts: bool = False
    selected: int = 2
    softmax: str = "before"
    capacity_factor: float | None = 2.0
    """Of token choice; None for no limit."""
    expert_capacity: float = 2.0
    """The capacity factor of expert choice."""
    noise_std: float = 0.0
    importance_weight: float = 0.0
    load_weight: float = 0.0
    pretrain_steps: int = 600
    """Batches of Adam; the rest of the recipe as in models.moe.MoeRecipe."""
    finetune_steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    tune_steps: Annotated[int, Field(ge=0)] = 50
    """Batches of fine-tuning after pruning; 0 for none."""
    tune_rate: float = 1e-3
    tune_criteria: EachOnce[str] = ("router-change", "weighted-activation", "random")
    """Whose networks are fine-tuned after pruning."""
    tune_prune: Annotated[tuple[Count, ...], AfterValidator(each_once)] = (4, 6)
    """Numbers of pruned experts for which they are."""
    tune_draws: Annotated[int, Field(ge=0)] = 1
    """How many of the draws of "random"."""
    savings: bool = True
    """Whether latency is measured, on networks of random weights and the size below."""
    savings_experts: EachOnce[Annotated[int, Field(ge=4)]] = (8,)
    savings_hidden: Count = 128
    savings_mlp: Count = 512
    savings_batch: Count = 4
    savings_rounds: Count = 15
    theory: bool = True
    """Whether the theory's own model is measured, in these dimensions, two or more, to see a law."""
    theory_dims: Annotated[EachOnce[Annotated[int, Field(ge=8)]], Field(min_length=2)] = (64, 128, 256, 512)
    theory_seeds: Count = 3
    ridgelets: bool = True
    """Whether experts from the Quantum Ridgelet Transform are."""
    out: Path = Path("runs/moe")
    """The output folder: absent, empty, or that of the same study, which then goes on."""

    def __post_init__(self) -> None:
        for name in (self.pretrain, self.finetune):
            parse_spec(name)
        for name in (*self.criteria, *self.tune_criteria):
            if name != MERGE:
                find_criterion(name)
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; name a folder with --out")
        if max(self.prune) >= self.experts:
            raise ValueError(
                f"prune holds {max(self.prune)}, but a layer has {self.experts} experts; prune at most"
                f" {self.experts - 1}"
            )
        if strangers := set(self.tune_prune) - set(self.prune):
            raise ValueError(
                f"tune_prune holds {min(strangers)}, which prune does not; add it there, or leave it out"
            )
        for router in self.routers:
            self.network(router, (self.patch, self.patch, 1), 2)
        self.recipe(self.pretrain_steps), self.recipe(self.finetune_steps), self.tuning

    def router(self, kind: str) -> RouterConfig:
        """The routers of networks of this kind."""
        own = ("selected", "softmax", "noise_std", "importance_weight", "load_weight")
        settings: dict[str, Any] = {"kind": kind, **{name: getattr(self, name) for name in own}}
        slots = self.expert_capacity if kind == "expert-choice" else self.capacity_factor
        return RouterConfig(**settings, capacity_factor=slots, multiple_of=1)

    def network(self, router: str, image_shape: tuple[int, int, int], classes: int) -> VisionMoeConfig:
        """The networks with routers of this kind."""
        return VisionMoeConfig(
            image_shape=image_shape,
            classes=classes,
            router=self.router(router),
            **{name: getattr(self, name) for name in ("patch", "hidden", "layers", "mlp", "heads")},
            **{name: getattr(self, name) for name in ("moe_layers", "experts", "classifier", "same_experts")},
        )

    def recipe(self, steps: int) -> MoeRecipe:
        """How networks are trained before pruning."""
        return MoeRecipe(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            noise=self.noise_std > 0,
        )

    @property
    def tuning(self) -> MoeRecipe:
        """How they are fine-tuned after pruning."""
        return replace(self.recipe(self.tune_steps), learning_rate=self.tune_rate, warmup=10)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, without the folder."""
        return {name: value for name, value in asdict(self).items() if name != "out"}


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quick": {},
        "small": {
            "pretrain": "fashion-mnist",
            "finetune": "mnist",
            "pretrain_points": 20_000,
            "finetune_points": 30_000,
            "calibration_images": 1024,
            "prune": (1, 2, 3, 4, 5, 6),
            "random_draws": 10,
            "patch": 7,
            "hidden": 48,
            "mlp": 96,
            "pretrain_steps": 2000,
            "finetune_steps": 3000,
            "tune_steps": 200,
            "tune_criteria": ("router-change", "weighted-activation", "reap", "router-norm", "random", MERGE),
            "tune_prune": (2, 4, 6),
            "tune_draws": 2,
            "savings_experts": (8, 32),
            "savings_rounds": 31,
            "theory_dims": (64, 128, 256, 512, 1024, 2048, 4096),
            "theory_seeds": 5,
        },
    }
)


def preset(name: str, **changes: Any) -> MoeStudyConfig:
    """The settings of a preset, with some changed.

    Raises:
        ValueError: an unknown preset or setting, or settings that cannot work.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return MoeStudyConfig(**{"name": name, **PRESETS[name], **changes})


def overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Fields of a study's settings, from texts "name=value".

    Unknown names are left for `preset` to refuse, which knows the nearest one.

    Raises:
        ValueError: a text without "=", a name given twice, or a value of another type.
    """
    refused = {name: f"{name} is not a setting; use --preset and --out" for name in ("name", "out")}
    return assignments(texts, typing.get_type_hints(MoeStudyConfig), refused)
