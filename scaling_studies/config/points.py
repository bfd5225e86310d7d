"""One point of a study: its parameters, its seed, what it needs, and the name that follows from them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from qrt_tn.studies.config.messages import Table


class Needs(Table):
    """What one point needs: GPUs and cores of each rank, memory of all ranks together."""

    gpus: int = Field(0, ge=0)
    ranks: int = Field(1, ge=1)
    cores: int = Field(1, ge=1)
    memory: float = Field(2.0, description="GiB of memory", gt=0)
    minutes: float = Field(60.0, description="minutes after which a point is given up", gt=0)
    exclusive: bool = Field(False, description="no other point beside it, for the sake of its timings")


@dataclass(frozen=True, eq=False)
class Point:
    """One point.

    Attributes:
        id: a hash of experiment, revision, all parameters and the seed.
        parameters: all of them, defaults too, as JSON can hold them.
        seed: of everything random.
        needs: no part of the id. Results agree to rounding whatever is given; they are the same bits where
            the number of cores is the same.
    """

    id: str
    parameters: Mapping[str, Any]
    seed: int
    needs: Needs

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{said}, seed={self.seed}"


def point_id(experiment: str, revision: int, parameters: Mapping[str, Any], seed: int) -> str:
    """The name of a point: 20 hexadecimal digits of BLAKE2b over its configuration as canonical JSON."""
    text = json.dumps([experiment, revision, parameters, seed], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def order(points: Iterable[str]) -> list[str]:
    """Ids of points in the order in which tasks share them: ids are hashes, so this shuffles them."""
    return sorted(points)


def shares(ordered: Sequence[str], task: int, tasks: int) -> tuple[list[str], list[str]]:
    """What one of several tasks does: first every n-th point, then those of the others from the far end."""
    own = list(ordered[task::tasks])
    return own, [point for number, point in enumerate(ordered) if number % tasks != task][::-1]
