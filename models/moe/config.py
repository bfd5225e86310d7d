"""The settings of a vision transformer with mixture-of-experts layers, and those of google-research/vmoe.

The published settings are those of `get_vmoe_config` in vmoe/configs/vmoe_paper/common.py (Riquelme et al.,
Scaling vision with sparse mixture of experts, arXiv 2106.05974).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, GetPydanticSchema, NonNegativeFloat, PositiveFloat, PositiveInt

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.settings import settings

RouterKind = Literal["token-choice", "expert-choice"]
ROUTERS: tuple[RouterKind, ...] = get_args(RouterKind)
DISPATCHES = ("auto", "gather", "einsum", "ragged")


@settings
class RouterConfig:
    """How tokens and experts find each other.

    Attributes:
        kind: "token-choice", where each token goes to its `selected` experts of largest gate (Shazeer et al.,
            arXiv 1701.06538; vmoe's NoisyTopExpertsPerItemRouter); or "expert-choice", where each expert
            takes as many tokens as it has slots (Zhou et al., arXiv 2202.09368; vmoe's
            NoisyTopItemsPerExpertRouter).
        selected: K, the experts of a token; expert choice ignores it.
        softmax: "before" the choice, over all experts (vmoe); or "after", over the chosen ones (Mixtral). The
            choice is the same; the gates of a token then sum to 1. With K = 1 every gate is then 1 and the
            router has no gradient from the loss of the classes, which building a layer warns of.
        capacity_factor: slots of an expert in a group of S tokens: S K / E times this factor (S / E for
            expert choice), rounded up; None for token choice without a limit, where nothing is dropped.
        multiple_of: the slots are rounded up to a multiple of this.
        batch_priority: whether tokens with a larger gate get their slots first (Batch Priority Routing,
            arXiv 2106.05974), instead of those that come first. First choices always precede second ones.
        noise_std: deviation of the Gaussian noise on the logits while training, times 1 / E.
        importance_weight, load_weight, gshard_weight: of the losses; the load loss needs noise.
    """

    kind: RouterKind = "token-choice"
    selected: PositiveInt = 2
    softmax: Literal["before", "after"] = "before"
    capacity_factor: PositiveFloat | None = 1.5
    multiple_of: PositiveInt = 4
    batch_priority: bool = False
    noise_std: NonNegativeFloat = 1.0
    importance_weight: NonNegativeFloat = 0.005
    load_weight: NonNegativeFloat = 0.005
    gshard_weight: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if self.capacity_factor is None and self.kind == "expert-choice":
            raise ValueError("capacity_factor is None; an expert that chooses needs a number of slots")


_Pairs = tuple[tuple[int, ExpertMap], ...]


def _pairs(maps: Any) -> Any:
    return tuple(maps.items()) if isinstance(maps, Mapping) else maps


_Maps = Annotated[
    Mapping[int, ExpertMap] | _Pairs,
    GetPydanticSchema(lambda _, handler: handler(Annotated[_Pairs, BeforeValidator(_pairs)])),
]


@settings
class VisionMoeConfig:
    """The shape of a vision transformer whose blocks may hold a mixture of experts.

    Attributes:
        image_shape: (height, width, channels); height and width are multiples of the patch.
        patch: rows and columns of a patch.
        hidden: extent h of a token.
        layers: encoder blocks.
        mlp: hidden units m of each MLP and of each expert.
        heads: of the attention; they divide `hidden`.
        moe_layers: the blocks whose MLP is a mixture of experts, counted from 0.
        experts: E, in each of these before any pruning.
        group: tokens that are routed together; None for the tokens of one image, so that the outcome for an
            image does not depend on its batch.
        classifier: "token", a class token in front; or "gap", the mean over the tokens.
        representation: units of a dense layer with tanh before the head (`pre_logits`), or None.
        same_experts: whether the experts of a layer begin with equal weights, as in vmoe.
        maps: what became of the experts of each layer, by block, as a mapping or as pairs (kept as pairs,
            which can be hashed); layers that are not named are whole.
    """

    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    classes: PositiveInt
    patch: PositiveInt = 4
    hidden: PositiveInt = 64
    layers: PositiveInt = 4
    mlp: PositiveInt = 128
    heads: PositiveInt = 4
    moe_layers: tuple[int, ...] = (1, 3)
    # bounded since a file may claim any number, and a map of them all is made
    experts: Annotated[int, Field(gt=0, le=65_536)] = 8
    router: RouterConfig = RouterConfig()
    group: PositiveInt | None = None
    classifier: Literal["token", "gap"] = "token"
    representation: PositiveInt | None = None
    same_experts: bool = True
    maps: _Maps = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", tuple(sorted(dict(self.maps).items())))
        height, width, _ = self.image_shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} pixels do not split into patches of {self.patch};"
                " give a patch that divides both"
            )
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide hidden = {self.hidden}; give heads that do")
        blocks = set(self.moe_layers)
        if len(blocks) < len(self.moe_layers) or not all(0 <= block < self.layers for block in blocks):
            raise ValueError(
                f"moe_layers is {self.moe_layers}; name each block once, from 0 to {self.layers - 1}"
            )
        unknown = set(dict(self.maps)) - blocks
        if unknown:
            raise ValueError(f"block {min(unknown)} has a map of experts, but is not in moe_layers")
        for block, expert_map in self.all_maps.items():
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
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Any) -> "VisionMoeConfig":
        """A configuration from what `plain` gave, also by way of JSON; ValueError for anything else."""
        try:
            router = RouterConfig(**plain["router"])
            maps = [(block, ExpertMap.from_plain(one)) for block, one in plain["maps"]]
            return cls(**{**plain, "router": router, "maps": maps})
        except (TypeError, LookupError, ValueError) as error:
            raise ValueError(f"not the settings of a vision transformer with experts: {error}") from error


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
        changes: other fields of VisionMoeConfig or RouterConfig, by name.

    Raises:
        ValueError: a description that is not of this form, or an unknown or unfit change.

    Example:
        >>> vmoe_config("B/16, E=32, K=1", (224, 224, 3), 1000, group=None).moe_layers
        (1, 3, 5, 7, 9, 11)
    """
    found = _DESCRIPTION.fullmatch(str(RELEASED.get(str(description), description)))
    if found is None:
        raise ValueError(
            f"{description!r} is not of the form 'B/16, E=8, K=2, Every 2', nor one of"
            f" {', '.join(RELEASED)}; give the variant (Ti, S, B, L or H) and the patch at least"
        )
    hidden, layers, mlp, heads = _VARIANTS[found["variant"]]
    last, number = found["where"] == "Last", int(found["number"] or 2)
    if not 1 <= number <= (layers // 2 if last else layers):
        raise ValueError(
            f"{description!r} asks for experts in {found['where']} {number} of {layers} blocks; give"
            f" 1 to {layers} for Every, 1 to {layers // 2} for Last"
        )
    blocks = range(1, layers, 2)[-number:] if last else range(number - 1, layers, number)
    config = VisionMoeConfig(
        image_shape=image_shape,
        classes=classes,
        patch=int(found["patch"]),
        hidden=hidden,
        layers=layers,
        mlp=mlp,
        heads=heads,
        moe_layers=tuple(blocks),
        experts=int(found["experts"] or 8),
        router=RouterConfig(selected=int(found["selected"] or 2), capacity_factor=1.05),
        representation=hidden,
    )
    config = replace(config, group=_GROUP_IMAGES * config.tokens)
    own, routers = ([field.name for field in fields(cls)] for cls in (VisionMoeConfig, RouterConfig))
    for name in changes:
        if name not in own and name not in routers:
            near = get_close_matches(name, [*own, *routers], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join([*own, *routers])}"
            raise ValueError(f"unknown setting {name!r}; {hint}")
    inner = {name: changes.pop(name) for name in routers if name in changes}
    router = changes.pop("router", config.router)
    if inner and isinstance(router, RouterConfig):
        router = replace(router, **inner)
    return replace(config, router=router, **changes)
