"""What a run of `qrt-tn lottery` is asked to do, checked before any of it starts."""

import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrt_tn.models.lottery import CONTROLS, REWINDINGS, Preset, Recipe
from qrt_tn.studies.experiments.settings import assignments


@dataclass(frozen=True)
class LotteryConfig:
    """Settings of `qrt-tn lottery`.

    Attributes:
        name: of the preset.
        preset: architecture, data, recipe and rates, with the user's changes.
        controls: which controls to train.
        control_levels: at which rounds; None for all, or in the preset "quick" for every other one.
        rewinding: "weights" or "rate".
        shallow: whether the QRT is set against pruning on shallow networks.
        seed: of the split into training and validation points.
        together: networks that train at once under vmap, 0 for one a core, None by the kind of device.
        out: the output folder: absent, empty, or that of the same study, which then goes on.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    name: str
    preset: Preset
    controls: tuple[str, ...] = CONTROLS
    control_levels: tuple[int, ...] | None = None
    rewinding: str = REWINDINGS[0]
    shallow: bool = True
    seed: int = 0
    together: int | None = None
    out: Path = Path("runs/lottery")

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give a whole number, at least 0")
        if self.together is not None and self.together < 0:
            raise ValueError(f"together is {self.together}; give 0 for one a core, or how many at once")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; name a folder with --out")

    @property
    def controlled(self) -> tuple[int, ...]:
        """The rounds that have controls."""
        if self.control_levels is not None:
            return self.control_levels
        return tuple(range(1, self.preset.levels + 1, 2 if self.name == "quick" else 1))

    def plain(self) -> dict[str, Any]:
        """What the trained networks depend on, as JSON can hold it."""
        preset = asdict(self.preset)
        del preset["unverified"]
        return {"preset": preset, "rewinding": self.rewinding, "seed": self.seed}


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of a preset or its recipe, from texts "name=value".

    Unknown names are left for `preset` to refuse, which knows the nearest one.

    Raises:
        ValueError: a text without "=", a name given twice, or a value of another type.
    """
    hints = {**typing.get_type_hints(Preset), **typing.get_type_hints(Recipe)}
    del hints["unverified"]
    refused = {"recipe": "a recipe is set by its parts, such as optimizer=sgd or batch_size=128"}
    return assignments(settings, hints, refused)
