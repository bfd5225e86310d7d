import dataclasses
import pickle
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

from qrt_tn.models.settings import settings


@settings
class Recipe:
    data: str
    steps: int = Field(100, gt=0)
    rate: float = Field(1e-3, gt=0)
    rule: Literal["adam", "sgd"] = "adam"
    drops: tuple[int, ...] = ()
    augment: bool = False

    def __post_init__(self) -> None:
        if self.drops and self.drops[-1] >= self.steps:
            raise ValueError(f"drops ends at {self.drops[-1]}, but there are {self.steps} steps")


def test_lists_and_numpy_scalars_become_what_can_be_hashed() -> None:
    made = Recipe("digits", np.int64(9), rate=np.float32(0.5), drops=[1, np.int32(2)])  # type: ignore[arg-type]
    assert made == Recipe("digits", 9, 0.5, drops=(1, 2))
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))
    assert dataclasses.replace(made, steps=5).steps == 5
    with pytest.raises(ValueError, match="steps is 0"):
        dataclasses.replace(made, steps=0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps is 0; input should be greater than 0"),
        ({"steps": True}, "steps is True"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": "3"}, "rate is '3'"),
        ({"rule": "adams"}, "rule is 'adams'; input should be 'adam' or 'sgd'"),
        ({"drops": [1, "x"]}, "drops.1 is 'x'"),
        ({"augment": 1}, "augment is 1"),
        ({"step": 3}, "unknown setting 'step'; did you mean 'steps'?"),
        ({"drops": (7, 100)}, "drops ends at 100, but there are 100 steps"),
        ({"data": 3}, "data is 3"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Recipe(**{"data": "digits", **wrong})
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_and_one_too_many_are_told() -> None:
    with pytest.raises(ValueError, match="data is missing"):
        Recipe()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'seventh' is one value too many; there are 6 settings"):
        Recipe("digits", 9, 0.5, "adam", (), False, "seventh")  # type: ignore[call-arg]
