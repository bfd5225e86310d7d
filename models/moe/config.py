"""The settings of a vision transformer with mixture-of-experts layers, and those of google-research/vmoe.

The published settings are those of `get_vmoe_config` in vmoe/configs/vmoe_paper/common.py (Riquelme et al.,
Scaling vision with sparse mixture of experts, arXiv 2106.05974).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, get_type_hints

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.moe.maps import ExpertMap

ROUTERS = ("token-choice", "expert-choice")
SOFTMAX = ("before", "after")
CLASSIFIERS = ("token", "gap")
DISPATCHES = ("auto", "gather", "einsum", "ragged")


@dataclass(frozen=True)
class RouterConfig:
    """How tokens and experts find each other.

    Attributes:
        kind: "token-choice", where each token goes to its `selected` experts of largest gate (Shazeer et al.,
            arXiv 1701.06538; vmoe's NoisyTopExpertsPerItemRouter); or "expert-choice", where each expert
            takes as many tokens as it has slots (Zhou et al., arXiv 2202.09368; vmoe's
            NoisyTopItemsPerExpertRouter).
        selected: K, the experts of a token; expert choice has none and ignores it.
        softmax: "before" the choice, over all experts (vmoe); or "after", over the chosen ones (Mixtral). The
            choice is the same; the gates of a token then sum to 1.
        capacity_factor: slots of an expert in a group of S tokens: S K / E times this factor (S / E for
            expert choice), rounded up; None for token choice without a limit, where nothing is dropped.
        multiple_of: the slots are rounded up to a multiple of this.
        batch_priority: whether tokens with a larger gate get their slots first (Batch Priority Routing,
            arXiv 2106.05974), instead of those that come first. First choices always precede second ones.
        noise_std: deviation of the Gaussian noise on the logits while training, times 1 / E.
        importance_weight: of the importance loss.
        load_weight: of the load loss, which needs noise.
        gshard_weight: of the loss of Lepikhin et al. (arXiv 2006.16668).

    Raises:
        ValueError: a setting of another type or out of its range.
    """

    kind: str = "token-choice"
    selected: int = 2
    softmax: str = "before"
    capacity_factor: float | None = 1.5
    multiple_of: int = 4
    batch_priority: bool = False
    noise_std: float = 1.0
    importance_weight: float = 0.005
    load_weight: float = 0.005
    gshard_weight: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("kind of router", self.kind, ROUTERS)
        _check_choice("softmax", self.softmax, SOFTMAX)
        check_whole("selected", self.selected, 1)
        check_whole("multiple_of", self.multiple_of, 1)
        if self.capacity_factor is None:
            if self.kind == "expert-choice":
                raise ValueError("capacity_factor is None; an expert that chooses needs a number of slots")
        elif not (is_real(self.capacity_factor) and self.capacity_factor > 0):
            raise ValueError(f"capacity_factor is {self.capacity_factor!r}; give a number above 0, or None")
        if not isinstance(self.batch_priority, bool):
            raise ValueError(f"batch_priority is {self.batch_priority!r}; give True or False")
        for name in ("noise_std", "importance_weight", "load_weight", "gshard_weight"):
            value = getattr(self, name)
            if not (is_real(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}; give a number, at least 0")


@dataclass(frozen=True)
class VisionMoeConfig:
    """The shape of a vision transformer whose blocks may hold a mixture of experts.

    Attributes:
        image_shape: (height, width, channels); height and width are multiples of the patch.
        classes: outputs of the head.
        patch: rows and columns of a patch.
        hidden: extent h of a token.
        layers: encoder blocks.
        mlp: hidden units m of each MLP and of each expert.
        heads: of the attention; they divide `hidden`.
        moe_layers: the blocks whose MLP is a mixture of experts, counted from 0.
        experts: E, in each of these before any pruning.
        router: how tokens and experts find each other.
        group: tokens that are routed together; None for the tokens of one image, so that the outcome for an
            image does not depend on its batch.
        classifier: "token", a class token in front; or "gap", the mean over the tokens.
        representation: units of a dense layer with tanh before the head (`pre_logits`), or None.
        same_experts: whether the experts of a layer begin with equal weights, as in vmoe.
        maps: what became of the experts of each layer, by block, as a mapping or as pairs (kept as pairs,
            which can be hashed); layers that are not named are whole.

    Raises:
        ValueError: a setting of another type, out of its range, or at odds with another.
    """

    image_shape: tuple[int, int, int]
    classes: int
    patch: int = 4
    hidden: int = 64
    layers: int = 4
    mlp: int = 128
    heads: int = 4
    moe_layers: tuple[int, ...] = (1, 3)
    experts: int = 8
    router: RouterConfig = field(default_factory=RouterConfig)
    group: int | None = None
    classifier: str = "token"
    representation: int | None = None
    same_experts: bool = True
    maps: Mapping[int, ExpertMap] | tuple[tuple[int, ExpertMap], ...] = ()

    def __post_init__(self) -> None:
        for name in ("classes", "patch", "hidden", "layers", "mlp", "heads", "experts"):
            check_whole(name, getattr(self, name), 1)
        for name in ("image_shape", "moe_layers"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give whole numbers as a tuple")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.router, RouterConfig):
            raise ValueError(f"router is {self.router!r}; give a RouterConfig")
        self._check_patches()
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide hidden = {self.hidden}; give heads that do")
        for block in self.moe_layers:
            check_whole("an entry of moe_layers", block, 0)
        wrong = [block for block in self.moe_layers if block >= self.layers]
        if wrong or len(set(self.moe_layers)) != len(self.moe_layers):
            raise ValueError(
                f"moe_layers is {self.moe_layers}; name each block once, from 0 to {self.layers - 1}"
            )
        _check_choice("classifier", self.classifier, CLASSIFIERS)
        for name in ("group", "representation"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        if not isinstance(self.same_experts, bool):
            raise ValueError(f"same_experts is {self.same_experts!r}; give True or False")
        self._check_maps()

    def _check_patches(self) -> None:
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape is {self.image_shape}; give (height, width, channels)")
        for extent in self.image_shape:
            check_whole("an extent of image_shape", extent, 1)
        height, width, _ = self.image_shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} pixels do not split into patches of {self.patch};"
                " give a patch that divides both"
            )

    def _check_maps(self) -> None:
        try:
            maps = {int(block): expert_map for block, expert_map in dict(self.maps).items()}
        except (TypeError, ValueError):
            raise ValueError(f"maps is {self.maps!r}; give an ExpertMap for each block") from None
        if not all(isinstance(expert_map, ExpertMap) for expert_map in maps.values()):
            raise ValueError(f"maps are {maps!r}; give an ExpertMap for each block")
        strangers = set(maps) - set(self.moe_layers)
        if strangers:
            raise ValueError(f"block {min(strangers)} has a map of experts, but is not in moe_layers")
        object.__setattr__(self, "maps", tuple(sorted(maps.items())))
        for block in self.moe_layers:
            expert_map = self.expert_map(block)
            if expert_map.capacity_experts != self.experts:
                raise ValueError(
                    f"the map of block {block} counts {expert_map.capacity_experts} experts before any"
                    f" pruning, the configuration {self.experts}; give maps of this network"
                )
            if self.router.kind == "token-choice" and self.router.selected > expert_map.columns:
                raise ValueError(
                    f"selected is {self.router.selected}, but the router of block {block} has"
                    f" {expert_map.columns} columns; select fewer, or leave more experts"
                )

    def expert_map(self, block: int) -> ExpertMap:
        """What became of the experts of a block."""
        return dict(self.maps).get(block, ExpertMap.whole(self.experts))

    @property
    def all_maps(self) -> dict[int, ExpertMap]:
        """What became of the experts of each layer that has any, by block."""
        return {block: self.expert_map(block) for block in self.moe_layers}

    @property
    def tokens(self) -> int:
        """T, tokens of an image, with the class token where there is one."""
        height, width, _ = self.image_shape
        return (height // self.patch) * (width // self.patch) + (self.classifier == "token")

    @property
    def images_together(self) -> int:
        """Images whose tokens are routed together: batches hold a multiple of it."""
        return 1 if self.group is None else math.lcm(self.group, self.tokens) // self.tokens

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        maps = {str(block): expert_map.plain() for block, expert_map in dict(self.maps).items()}
        return asdict(replace(self, maps=())) | {"maps": maps}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "VisionMoeConfig":
        """A configuration from what `plain` gave, also by way of JSON.

        Raises:
            ValueError: keys or values that are not those of a configuration.
        """
        try:
            settings = dict(plain)
            settings["router"] = RouterConfig(**settings["router"])
            held = settings.get("maps", {})
            settings["maps"] = {int(block): ExpertMap.from_plain(one) for block, one in held.items()}
            return cls(**settings)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the settings of a vision transformer with experts ({error})") from error


# hidden, layers, mlp, heads
_VARIANTS = {
    "Ti": (192, 12, 768, 3),  # DeiT's tiny (arXiv 2012.12877); not one of vmoe's
    "S": (512, 8, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
}
_DESCRIPTION = re.compile(
    r"(?:V-MoE-)?(?P<variant>Ti|S|B|L|H)/(?P<patch>\d+)"
    r"(?:, E=(?P<experts>\d+))?(?:, K=(?P<selected>\d+))?(?:, (?P<where>Every|Last) (?P<number>\d+))?"
)
_GROUP_IMAGES = 8  # vmoe groups the tokens of eight images
RELEASED = MappingProxyType(
    {
        "vmoe_s32_last2_ilsvrc2012_randaug_light1": "S/32, E=8, K=2, Last 2",
        "vmoe_s32_last2_ilsvrc2012_randaug_light1_ft_ilsvrc2012": "S/32, E=8, K=2, Last 2",
        "vmoe_s32_last2_ilsvrc2012_randaug_medium": "S/32, E=8, K=2, Last 2",
        "vmoe_b16_imagenet21k_randaug_strong": "B/16, E=8, K=2, Every 2",
        "vmoe_b16_imagenet21k_randaug_strong_ft_ilsvrc2012": "B/16, E=8, K=2, Every 2",
    }
)


def vmoe_config(
    description: str, image_shape: tuple[int, int, int], classes: int, **changes: Any
) -> VisionMoeConfig:
    """The settings that vmoe gives a model of this name.

    Args:
        description: as in vmoe's configurations, such as "B/16, E=8, K=2, Every 2" or "S/32, E=8, Last 2": a
            variant (Ti, S, B, L, H), the patch, experts (8 if left out), experts of a token (2), and which
            blocks have experts: every n-th, or the last n of the odd ones ("Every 2" if left out). Or the
            name of a released checkpoint, one of RELEASED.
        image_shape: (height, width, channels).
        classes: outputs of the head.
        changes: other fields of VisionMoeConfig or RouterConfig, by name.

    Raises:
        ValueError: a description that is not of this form, or an unknown or unfit change.
    """
    found = _DESCRIPTION.fullmatch(str(RELEASED.get(description, description)))
    if found is None:
        raise ValueError(
            f"{description!r} is not of the form 'B/16, E=8, K=2, Every 2', nor one of"
            f" {', '.join(RELEASED)}; give the variant (Ti, S, B, L or H) and the patch at least"
        )
    hidden, layers, mlp, heads = _VARIANTS[found["variant"]]
    number = int(found["number"] or 2)
    check_whole(f"the number after {found['where'] or 'Every'!r}", number, 1)
    if found["where"] == "Last":
        blocks = tuple(range(1, layers, 2))[-number:]
    else:
        blocks = tuple(range(number - 1, layers, number))
    if not blocks or (found["where"] == "Last" and len(blocks) < number):
        raise ValueError(
            f"{description!r} asks for experts in {found['where']} {number} of {layers} blocks; give"
            f" 1 to {layers} for Every, 1 to {layers // 2} for Last"
        )
    config = VisionMoeConfig(
        image_shape=image_shape,
        classes=classes,
        patch=int(found["patch"]),
        hidden=hidden,
        layers=layers,
        mlp=mlp,
        heads=heads,
        moe_layers=blocks,
        experts=int(found["experts"] or 8),
        router=RouterConfig(selected=int(found["selected"] or 2), capacity_factor=1.05),
        representation=hidden,
    )
    return changed(replace(config, group=_GROUP_IMAGES * config.tokens), **changes)


def changed(config: VisionMoeConfig, **changes: Any) -> VisionMoeConfig:
    """A configuration with some of its fields, or of its router's, changed.

    Raises:
        ValueError: a name that is neither's, or a value out of its range.
    """
    own, routers = get_type_hints(VisionMoeConfig), get_type_hints(RouterConfig)
    for name in changes:
        if name not in own and name not in routers:
            near = get_close_matches(name, [*own, *routers], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown setting {name!r}{hint}")
    inner = {name: value for name, value in changes.items() if name in routers}
    outer = {name: value for name, value in changes.items() if name in own}
    if inner:
        outer["router"] = replace(outer.get("router", config.router), **inner)
    return replace(config, **outer)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
