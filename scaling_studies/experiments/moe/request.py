"""What `qrt-tn moe prune` is asked to do, checked before any checkpoint is read."""

import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.checkpoints.vmoe_index import checked_prefix, find_shards, index_path
from qrt_tn.models.moe.config import ROUTERS
from qrt_tn.models.moe.criteria import find_criterion
from qrt_tn.models.moe.pruning import MODES
from qrt_tn.models.moe.selection import SCOPES
from qrt_tn.models.settings import settings
from qrt_tn.studies.experiments.moe.config import MERGE
from qrt_tn.studies.experiments.moe.source import is_left_behind, is_native, sidecar
from qrt_tn.studies.experiments.settings import Count, one_of

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BYTES = re.compile(r"(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>[A-Za-z]*)")


@settings
class PruneRequest:
    """What `qrt-tn moe prune` is asked to do.

    Raises:
        ValueError: options that contradict each other, or are out of range.
    """

    finetuned: str
    """The checkpoint to prune: a prefix of vmoe, or a .safetensors file."""
    out: Path
    """Where to write it, in the same format."""
    pretrained: str | None = None
    """The checkpoint before fine-tuning, or None."""
    criterion: str = "router-change"
    """By which experts go, or "merge"."""
    prune: int | None = None
    """How many go."""
    left: int | None = None
    """How many each layer keeps; for merging, instead of `prune`."""
    scope: Annotated[str, one_of(SCOPES)] = "layer"
    budget_bytes: int | None = None
    """Instead of `prune`, the most bytes of all parameters."""
    mode: Annotated[str, one_of(MODES)] = "keep-router"
    """Of removal."""
    layers: tuple[int, ...] | None = None
    """Blocks; None for all with experts."""
    least: Count = 1
    """Experts that each group of each layer keeps."""
    groups: Count = 1
    """Ensemble members."""
    router: Annotated[str, one_of(ROUTERS)] | None = None
    """Of the checkpoint, which vmoe's format does not tell; None for what the file says, or token choice."""
    selected: Count | None = None
    """K; None for what the file says, or 2."""
    capacity_factor: float | None = None
    """For calibration; None for what the file says, or 1.5."""
    calibration: str | None = None
    """An npz file with images "x", or a set's name; None for none."""
    images: Count = 1024
    """How many of them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of a criterion that draws, and of which images of a set are taken."""

    def __post_init__(self) -> None:
        self._check_criterion()
        self._check_places()

    def _check_criterion(self) -> None:
        if self.criterion == MERGE:
            if self.left is None or self.prune is not None or self.budget_bytes is not None:
                raise ValueError("merging is told how many experts each layer keeps; give --left alone")
            check_whole("left", self.left, 1)
            if self.scope != SCOPES[0] or self.mode != MODES[0]:
                raise ValueError(
                    "merging keeps every router column, in each layer by itself; leave out --scope and --mode"
                )
        elif self.left is not None:
            raise ValueError(f"--left is {self.left}, which is for --criterion merge; give --prune")
        elif (self.prune is None) == (self.budget_bytes is None):
            raise ValueError("give either --prune or --budget, one of the two")
        needs = ("statistics",) if self.criterion == MERGE else find_criterion(self.criterion).needs
        if "pretrained" in needs and self.pretrained is None:
            raise ValueError(
                f"criterion {self.criterion!r} needs the model before fine-tuning; give it as --pretrained"
            )
        if self.picks_sets:
            if self.scope != SCOPES[0] or self.budget_bytes is not None:
                raise ValueError(
                    f"criterion {self.criterion!r} picks a set in each layer by itself; give --prune alone"
                )
            if self.router == "expert-choice":
                raise ValueError(f"criterion {self.criterion!r} is defined for token choice only")
        if "statistics" in needs and self.calibration is None:
            raise ValueError(f"{self.criterion!r} needs images to look at; give them as --calibration")

    def _check_places(self) -> None:
        if is_native(self.finetuned) != is_native(self.out):
            wanted = "a .safetensors file" if is_native(self.finetuned) else "a prefix, without .safetensors"
            raise ValueError(f"--out is {self.out}; the result has the format of its source: give {wanted}")
        if not self.out.parent.is_dir():
            raise ValueError(f"folder {self.out.parent} does not exist; make it first")
        taken = [path for path in taken_names(self.out) if path.exists()]
        # a file about a checkpoint that is not there is what a run that was cut short left
        alone = len(taken) == 1 and taken[0] == sidecar(self.out) and is_left_behind(taken[0])
        if taken and not alone:
            raise ValueError(f"{taken[0]} exists; name another with --out, or remove it")

    @property
    def picks_sets(self) -> bool:
        """Whether the criterion picks a set of experts instead of scoring each."""
        return self.criterion != MERGE and find_criterion(self.criterion).subset

    @property
    def needs_images(self) -> bool:
        """Whether the network has to be run."""
        return self.criterion == MERGE or "statistics" in find_criterion(self.criterion).needs


def parse_bytes(text: str) -> int:
    """Bytes of a text such as "300MB", "1.5GiB" or "1000000".

    Raises:
        ValueError: no number, an unknown unit, or less than one byte.
    """
    found = _BYTES.fullmatch(text.strip())
    unit = found["unit"].upper() if found else None
    if found is None or unit not in _UNITS:
        raise ValueError(f"budget is {text!r}; give bytes, such as 300MB, 1.5GiB or 1000000")
    number = float(found["number"])
    if number * _UNITS[unit] > sys.maxsize:
        raise ValueError(f"budget is {text[:40]!r}, more than a machine can hold; give less")
    size = int(number * _UNITS[unit])
    if size < 1:
        raise ValueError(f"budget is {text!r}, less than a byte; give more")
    return size


def taken_names(out: Path) -> list[Path]:
    """The names that a checkpoint of this name would take, and shards of another that has it already."""
    if is_native(out):
        return [out]
    place = checked_prefix(out)
    return [place, index_path(place), sidecar(place), *find_shards(place)]
