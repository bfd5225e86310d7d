"""What a run of `qrt-tn moe study` is asked to do, checked before any of it starts."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.config import ROUTERS, RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.criteria import CRITERIA, find_criterion
from qrt_tn.models.moe.pruning import MODES
from qrt_tn.models.moe.training import MoeRecipe
from qrt_tn.studies.experiments.moe.data import parse_spec
from qrt_tn.studies.experiments.settings import assignments

MERGE = "merge"  # beside the criteria, a way to have fewer experts, and its mode
EVERY_CRITERION = (*CRITERIA, MERGE)
OF_NETWORKS = (  # what trained networks depend on; all else may change between two calls for one folder
    *("pretrain", "finetune", "pretrain_points", "finetune_points", "test_points", "patch", "hidden"),
    *("layers", "mlp", "heads", "moe_layers", "experts", "classifier", "same_experts", "selected"),
    *("softmax", "capacity_factor", "expert_capacity", "noise_std", "importance_weight", "load_weight"),
    *("pretrain_steps", "finetune_steps", "batch_size", "learning_rate", "weight_decay"),
)


@dataclass(frozen=True)
class MoeStudyConfig:
    """Settings of `qrt-tn moe study`; those of the preset "quick" unless given.

    The settings of "quick" were chosen by two things only: the accuracy of the fine-tuned networks, and how
    much of it *random* pruning costs. Where blocks are many, or not all of their MLPs are experts, six of
    eight experts can go at random for next to nothing, and no criterion could be told from another. No
    setting was chosen by how well any criterion does. They are settings under which experts matter, then,
    not those of the published networks: fewer blocks, all of them with experts that do not begin alike.

    Attributes:
        name: of the preset.
        pretrain: the set to pre-train on, as models.images names it or by its path, perhaps with classes.
        finetune: the set to fine-tune on, likewise, with images of the same shape.
        pretrain_points: training images of the one; None for all but one.
        finetune_points: of the other. The rest of its training images joins the test.
        test_points: the most images that accuracies are measured on.
        calibration_images: of the fine-tuning set's training images, for criteria that look at activations.
        seeds: networks of each kind of router; each seed draws weights, order and training images.
        routers: kinds of routers, of qrt_tn.models.moe.config.ROUTERS.
        criteria: names of qrt_tn.models.moe.criteria.CRITERIA, and "merge".
        modes: of removal, of qrt_tn.models.moe.removal.MODES.
        prune: how many experts of each layer go, each number in turn.
        random_draws: how often "random" is drawn for each network and number.
        patch: rows and columns of a patch.
        hidden: extent of a token.
        layers: encoder blocks.
        mlp: hidden units of each expert.
        heads: of the attention.
        moe_layers: blocks with experts.
        experts: in each of these.
        classifier: "token" or "gap".
        same_experts: whether the experts of a layer begin with equal weights, as in vmoe.
        selected: K, the experts of a token in token choice.
        softmax: "before" or "after" the choice.
        capacity_factor: of token choice; None for no limit.
        expert_capacity: the capacity factor of expert choice.
        noise_std: of the routers while training.
        importance_weight: of the importance loss, for token choice.
        load_weight: of the load loss, likewise, which needs noise.
        pretrain_steps: batches of Adam.
        finetune_steps: likewise.
        batch_size: images.
        learning_rate: at the end of the warm-up.
        weight_decay: decoupled.
        tune_steps: batches of fine-tuning after pruning; 0 for none.
        tune_rate: learning rate there.
        tune_criteria: whose networks are fine-tuned after pruning.
        tune_prune: numbers of pruned experts for which they are.
        tune_draws: how many of the draws of "random".
        savings: whether latency is measured, on networks of random weights and the size below.
        savings_experts: experts of those networks, each number in turn.
        savings_hidden: extent of a token there.
        savings_mlp: hidden units of an expert there.
        savings_batch: images at once there.
        savings_rounds: how often each is timed.
        theory: whether the theory's own model is measured.
        theory_dims: its dimensions d.
        theory_seeds: its seeds.
        ridgelets: whether experts from the Quantum Ridgelet Transform are.
        out: the output folder: absent, empty, or that of the same study, which then goes on.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    name: str = "quick"
    pretrain: str = "digits:0-4"
    finetune: str = "digits:5-9"
    pretrain_points: int | None = 600
    finetune_points: int | None = 600
    test_points: int = 2000
    calibration_images: int = 256
    seeds: int = 3
    routers: tuple[str, ...] = ROUTERS
    criteria: tuple[str, ...] = EVERY_CRITERION
    modes: tuple[str, ...] = MODES
    prune: tuple[int, ...] = (2, 4, 6)
    random_draws: int = 5
    patch: int = 2
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
    expert_capacity: float = 2.0
    noise_std: float = 0.0
    importance_weight: float = 0.0
    load_weight: float = 0.0
    pretrain_steps: int = 600
    finetune_steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    tune_steps: int = 50
    tune_rate: float = 1e-3
    tune_criteria: tuple[str, ...] = ("router-change", "weighted-activation", "random")
    tune_prune: tuple[int, ...] = (4, 6)
    tune_draws: int = 1
    savings: bool = True
    savings_experts: tuple[int, ...] = (8,)
    savings_hidden: int = 128
    savings_mlp: int = 512
    savings_batch: int = 4
    savings_rounds: int = 15
    theory: bool = True
    theory_dims: tuple[int, ...] = (64, 128, 256, 512)
    theory_seeds: int = 3
    ridgelets: bool = True
    out: Path = Path("runs/moe")

    def __post_init__(self) -> None:
        for item in fields(self):  # lists, as a file gives them, would make it unhashable
            if isinstance(getattr(self, item.name), list):
                object.__setattr__(self, item.name, tuple(getattr(self, item.name)))
        for name in ("seeds", "test_points", "calibration_images", "random_draws", "theory_seeds"):
            check_whole(name, getattr(self, name), 1)
        for name in ("savings_batch", "savings_hidden", "savings_mlp", "savings_rounds"):
            check_whole(name, getattr(self, name), 1)
        for name in ("tune_steps", "tune_draws"):
            check_whole(name, getattr(self, name), 0)
        for name in ("pretrain", "finetune"):
            parse_spec(getattr(self, name))
        _check_listed("routers", self.routers, ROUTERS)
        _check_listed("modes", self.modes, MODES)
        if not self.criteria:
            raise ValueError(f"no criteria given; name some of {', '.join(EVERY_CRITERION)}")
        for name in ("criteria", "prune", "tune_criteria", "tune_prune", "savings_experts", "theory_dims"):
            _check_once(name, getattr(self, name))
        for name in (*self.criteria, *self.tune_criteria):
            if name != MERGE:
                find_criterion(name)
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; name a folder with --out")
        self._check_numbers()
        for router in self.routers:
            self.network(router, (self.patch, self.patch, 1), 2)
        self.recipe(self.pretrain_steps), self.recipe(self.finetune_steps), self.tuning

    def _check_numbers(self) -> None:
        if not self.prune:
            raise ValueError("prune is empty; give numbers of experts that go from each layer, such as 2,4")
        for name, most in (("prune", self.experts), ("tune_prune", self.experts)):
            for number in getattr(self, name):
                check_whole(f"an entry of {name}", number, 1)
                if number >= most:
                    raise ValueError(
                        f"{name} holds {number}, but a layer has {most} experts; prune at most {most - 1}"
                    )
        if set(self.tune_prune) - set(self.prune):
            stranger = min(set(self.tune_prune) - set(self.prune))
            raise ValueError(
                f"tune_prune holds {stranger}, which prune does not; add it there, or leave it out"
            )
        for number in self.theory_dims:
            check_whole("an entry of theory_dims", number, 8)
        if len(self.theory_dims) < 2:
            raise ValueError(f"theory_dims is {self.theory_dims}; give two or more, to see a law in d")
        for number in self.savings_experts:
            check_whole("an entry of savings_experts", number, 4)

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
    known = [item.name for item in fields(MoeStudyConfig)]
    for setting in changes:
        if setting not in known:
            near = get_close_matches(setting, known, 1)
            raise ValueError(f"unknown setting {setting!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return MoeStudyConfig(**{"name": name, **PRESETS[name], **changes})


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of a study's settings, from texts "name=value".

    Unknown names are left for `preset` to refuse, which knows the nearest one.

    Raises:
        ValueError: a text without "=", a name given twice, or a value of another type.
    """
    refused = {name: f"{name} is not a setting; use --preset and --out" for name in ("name", "out")}
    return assignments(settings, typing.get_type_hints(MoeStudyConfig), refused)


def _check_listed(name: str, values: tuple[str, ...], choices: Sequence[str]) -> None:
    if not values:
        raise ValueError(f"no {name} given; name some of {', '.join(choices)}")
    for value in values:
        if value not in choices:
            raise ValueError(f"unknown entry {value!r} of {name}; choose among {', '.join(choices)}")
    _check_once(name, values)


def _check_once(name: str, values: tuple[Any, ...]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name} are {', '.join(map(str, values))}; name each once")
