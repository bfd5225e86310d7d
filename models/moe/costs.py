"""What a network with experts costs, counted from its configuration: parameters, bytes and operations."""

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.routers import capacity

BYTES = 4  # of a float32


def parameter_count(config: VisionMoeConfig) -> int:
    """Parameters of a network, pruned layers with what they have left."""
    h, m = config.hidden, config.mlp
    norm = 2 * h
    attention = 4 * (h * h + h)
    patch = config.patch**2 * config.image_shape[2]
    total = patch * h + h + config.tokens * h + (h if config.classifier == "token" else 0) + norm
    for block in range(config.layers):
        total += 2 * norm + attention
        if block in config.moe_layers:
            expert_map = config.expert_map(block)
            total += h * expert_map.columns + expert_map.experts * (2 * h * m + m + h)
        else:
            total += 2 * h * m + m + h
    width = h
    if config.representation is not None:
        total += h * config.representation + config.representation
        width = config.representation
    return total + width * config.classes + config.classes


def parameter_bytes(config: VisionMoeConfig) -> int:
    """Bytes of these parameters as float32, which is what networks are held and kept in."""
    return BYTES * parameter_count(config)


def flops_per_image(config: VisionMoeConfig) -> int:
    """Operations of matrix products for one image: multiply-adds times 2.

    Counted are the patch embedding, the attention (projections, scores, weighted sums), the MLPs, the
    routers, the representation and the head. Experts count by slots, filled or not, since the forms "gather"
    and "einsum" compute them all: so many are paid for, however the tokens choose. Left out are biases,
    norms, softmax, gelu, the choice and the sorting of tokens, and the weighted sum of the experts' outputs;
    and the products with one-hot arrays, which only "einsum" has. "ragged" computes assignments, not slots.

    Where several images are routed together, this is an image's share of their group's slots, rounded.
    """
    return sum(flops_by_part(config).values())


def flops_by_part(config: VisionMoeConfig) -> dict[str, int]:
    """The operations of `flops_per_image` by part: embedding, attention, mlp, router, experts, head."""
    h, m, tokens = config.hidden, config.mlp, config.tokens
    height, width, channels = config.image_shape
    patches = (height // config.patch) * (width // config.patch)
    parts = dict.fromkeys(("embedding", "attention", "mlp", "router", "experts", "head"), 0)
    parts["embedding"] = 2 * patches * config.patch**2 * channels * h
    for block in range(config.layers):
        parts["attention"] += 2 * (4 * tokens * h * h + 2 * tokens * tokens * h)
        if block in config.moe_layers:
            parts["router"] += 2 * tokens * h * config.expert_map(block).columns
            parts["experts"] += round(2 * 2 * h * m * _slots_of_an_image(config, block))
        else:
            parts["mlp"] += 2 * 2 * tokens * h * m
    inner = h
    if config.representation is not None:
        parts["head"] += 2 * h * config.representation
        inner = config.representation
    parts["head"] += 2 * inner * config.classes
    return parts


def _slots_of_an_image(config: VisionMoeConfig, block: int) -> float:
    """Slots of all columns that have an expert, an image's share."""
    expert_map = config.expert_map(block)
    group = config.group or config.tokens
    slots = capacity(group, config.router, expert_map.capacity_experts) * len(expert_map.live_columns)
    return slots * config.tokens / group
