"""Which expert, if any, answers each column of a layer's router after pruning or merging."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from qrt_tn.models.settings import settings

NO_EXPERT = -1


@settings
class ExpertMap:
    """The experts of one MoE layer, as pruning or merging left them.

    Attributes:
        column_to_expert: for each column of the router, the place in the expert arrays, 0 .. experts - 1, of
            the expert that its tokens go to; or NO_EXPERT where it is gone and its tokens get zero. Several
            columns may share an expert (merged experts).
        source_ids: for each expert that is left, its number in the layer before anything was removed.
        capacity_experts: the number E of experts in the formula of the capacity. It stays what it was before
            pruning, so that an expert that is left has as many slots as before.
        renormalized: whether pruning in the mode "renormalize" made the layer divide a token's gates by
            their sum. `RouterConfig.softmax` = "after" does so in every layer, whatever stands here.

    Raises:
        ValueError: no columns, an expert that no column leads to, or numbers that do not fit.
    """

    column_to_expert: Annotated[tuple[int, ...], Field(min_length=1)]
    source_ids: tuple[int, ...]
    capacity_experts: Annotated[int, Field(ge=1)]
    renormalized: bool = False

    def __post_init__(self) -> None:
        reached = set(self.column_to_expert) - {NO_EXPERT}
        if not reached:
            raise ValueError("every expert of a layer is gone; leave at least one")
        if reached != set(range(self.experts)):
            raise ValueError(
                f"column_to_expert {self.column_to_expert} must lead to each of the {self.experts} experts,"
                f" 0 .. {self.experts - 1}, and to no other"
            )
        before, sources = range(self.capacity_experts), set(self.source_ids)
        if len(sources) != self.experts or not all(source in before for source in sources):
            raise ValueError(
                f"source_ids is {self.source_ids}; name each expert once, from 0 to {before[-1]}"
            )

    @classmethod
    def whole(cls, experts: int) -> "ExpertMap":
        """The map of a layer that nothing was removed from: column e leads to expert e."""
        every = tuple(range(experts))
        return cls(every, every, experts)

    @property
    def columns(self) -> int:
        """Columns of the router."""
        return len(self.column_to_expert)

    @property
    def experts(self) -> int:
        """Experts that are left."""
        return len(self.source_ids)

    @property
    def live_columns(self) -> tuple[int, ...]:
        """The columns that have an expert, ascending."""
        return tuple(c for c, expert in enumerate(self.column_to_expert) if expert != NO_EXPERT)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ExpertMap":
        """A map from what `plain` gave; ValueError for other keys or values."""
        if not isinstance(plain, Mapping):
            raise ValueError(f"{plain!r} is not the map of a layer's experts; give its fields by name")
        return cls(**plain)
