"""What a run of `qrt-tn lottery` is asked to do, checked before any of it starts."""

import typing
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from qrt_tn.models.lottery import CONTROLS, REWINDINGS, Preset, Recipe
from qrt_tn.models.settings import settings
from qrt_tn.studies.experiments.settings import assignments


@settings
class LotteryConfig:
    """Settings of `qrt-tn lottery`.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    name: str
    """Of the preset."""
    preset: Preset
    """Architecture, data, recipe and rates, with the user's changes."""
    controls: tuple[str, ...] = CONTROLS
    """Which controls to train."""
    control_levels: tuple[int, ...] | None = None
    """At which rounds; None for all, or in the preset "quick" for every other one."""
    rewinding: str = REWINDINGS[0]
    """"weights" or "rate"."""
    shallow: bool = True
    """Whether the QRT is set against pruning on shallow networks."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the split into training and validation points."""
    together: Annotated[int, Field(ge=0)] | None = None
    """Networks that train at once under vmap, 0 for one a core, None by the kind of device."""
    out: Path = Path("runs/lottery")
    """The output folder: absent, empty, or that of the same study, which then goes on."""

    def __post_init__(self) -> None:
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


def overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Fields of a preset or its recipe, from texts "name=value".

    Unknown names are left for `preset` to refuse, which knows the nearest one.

    Raises:
        ValueError: a text without "=", a name given twice, or a value of another type.
    """
    hints = {**typing.get_type_hints(Preset), **typing.get_type_hints(Recipe)}
    del hints["unverified"]
    refused = {"recipe": "a recipe is set by its parts, such as optimizer=sgd or batch_size=128"}
    return assignments(texts, hints, refused)
