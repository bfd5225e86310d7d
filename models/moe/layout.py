"""What became of the experts of one layer: which expert, if any, answers each column of its router."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qrt_tn.engine.arguments import check_whole

NO_EXPERT = -1


@dataclass(frozen=True)
class ExpertLayout:
    """The experts of one MoE layer, as pruning or merging left them.

    Attributes:
        expert_of: for each column of the router, the expert its tokens go to: 0 .. experts - 1 by place in
            the expert arrays, or NO_EXPERT where the expert is gone and its tokens get zero. Several columns
            may share an expert (merged experts).
        original: for each expert that is left, its number in the layer before anything was removed.
        capacity_experts: the number E of experts in the formula of the capacity. It stays what it was before
            pruning, so that an expert that is left has as many slots as before.
        normalize: whether the gates of the experts that a token goes to are divided by their sum.

    Raises:
        ValueError: no columns, an expert that no column leads to, or numbers that do not fit.
    """

    expert_of: tuple[int, ...]
    original: tuple[int, ...]
    capacity_experts: int
    normalize: bool = False

    def __post_init__(self) -> None:
        for name in ("expert_of", "original"):  # lists, as a file gives them, would make it unhashable
            object.__setattr__(self, name, tuple(int(number) for number in getattr(self, name)))
        check_whole("capacity_experts", self.capacity_experts, 1)
        if not self.expert_of:
            raise ValueError("expert_of is empty; give a router at least one column")
        led_to = set(self.expert_of) - {NO_EXPERT}
        if not led_to:
            raise ValueError("every expert of a layer is gone; leave at least one")
        if led_to != set(range(len(self.original))):
            raise ValueError(
                f"expert_of {self.expert_of} must lead to each of the {len(self.original)} experts,"
                f" 0 .. {len(self.original) - 1}, and to no other"
            )
        if len(set(self.original)) != len(self.original) or min(self.original) < 0:
            raise ValueError(f"original is {self.original}; name each expert once, from 0 on")

    @classmethod
    def whole(cls, experts: int, *, normalize: bool = False) -> "ExpertLayout":
        """The layout of a layer that nothing was removed from: column e leads to expert e."""
        check_whole("experts", experts, 1)
        every = tuple(range(experts))
        return cls(every, every, experts, normalize)

    @property
    def columns(self) -> int:
        """Columns of the router."""
        return len(self.expert_of)

    @property
    def experts(self) -> int:
        """Experts that are left."""
        return len(self.original)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "ExpertLayout":
        """A layout from what `plain` gave.

        Raises:
            ValueError: keys or values that are not those of a layout.
        """
        try:
            return cls(**plain)
        except TypeError as error:
            raise ValueError(f"{plain!r} is not the layout of a layer's experts ({error})") from error


def kept_first(kept: Sequence[int], columns: int) -> tuple[int, ...]:
    """The order of columns in which those of the kept experts come first, the others after them.

    This is the order that the released code of Chowdhury et al. (ICML 2024) writes where pruned experts keep
    their columns.
    """
    return (*kept, *(column for column in range(columns) if column not in set(kept)))
