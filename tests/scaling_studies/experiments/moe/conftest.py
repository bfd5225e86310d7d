"""Small trees of vmoe's names, made by hand, and files that hold them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig

Make = Callable[..., dict[str, Any]]
HIDDEN, MLP, HEADS, EXPERTS, CLASSES, BLOCKS = 6, 5, 2, 4, 3, 2


@pytest.fixture
def config() -> VisionMoeConfig:
    """Of the trees below: patches of 2 on images of 4 x 4, experts in both blocks."""
    router = RouterConfig(capacity_factor=2.0, multiple_of=1)
    sizes: dict[str, Any] = {"patch": 2, "hidden": HIDDEN, "layers": BLOCKS, "mlp": MLP, "heads": HEADS}
    return VisionMoeConfig((4, 4, 1), CLASSES, **sizes, moe_layers=(0, 1), experts=EXPERTS, router=router)


@pytest.fixture
def make() -> Make:
    def tree(seed: int = 0, *, experts: int = EXPERTS, members: int | None = None) -> dict[str, Any]:
        rng = np.random.default_rng(seed)

        def drawn(*shape: int) -> np.ndarray:
            return rng.normal(scale=0.5, size=shape).astype(np.float32)

        def dense(*shape: int, bias: tuple[int, ...]) -> dict[str, Any]:
            return {"kernel": drawn(*shape), "bias": drawn(*bias)}

        def block() -> dict[str, Any]:
            own = HIDDEN // HEADS
            router = (HIDDEN, experts) if members is None else (HIDDEN, members, experts // members)
            attention = {
                name: dense(HIDDEN, HEADS, own, bias=(HEADS, own)) for name in ("query", "key", "value")
            }
            attention["out"] = dense(HEADS, own, HIDDEN, bias=(HIDDEN,))
            return {
                **{f"LayerNorm_{i}": {"scale": drawn(HIDDEN), "bias": drawn(HIDDEN)} for i in (0, 1)},
                "SelfAttention": attention,
                "Moe": {
                    "Router": {"dense": {"kernel": drawn(*router)}},
                    "Mlp": {
                        "Dense_0": dense(experts, HIDDEN, MLP, bias=(experts, MLP)),
                        "Dense_1": dense(experts, MLP, HIDDEN, bias=(experts, HIDDEN)),
                    },
                },
            }

        return {
            "cls": drawn(1, 1, HIDDEN),
            "embedding": dense(2, 2, 1, HIDDEN, bias=(HIDDEN,)),
            "Encoder": {
                "posembed_input": {"pos_embedding": drawn(1, 5, HIDDEN)},
                **{f"encoderblock_{i}": block() for i in range(BLOCKS)},
                "encoder_norm": {"scale": drawn(HIDDEN), "bias": drawn(HIDDEN)},
            },
            "head": dense(HIDDEN, CLASSES, bias=(CLASSES,)),
        }

    return tree
