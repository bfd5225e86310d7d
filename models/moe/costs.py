"""What a network with experts costs, counted from its configuration: parameters, bytes and operations."""

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.routers import capacity


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
    inner = config.representation or h
    return total + (inner + 1) * config.classes + ((h + 1) * inner if config.representation else 0)


def parameter_bytes(config: VisionMoeConfig) -> int:
    """Bytes of these parameters as float32, which is what networks are held and kept in."""
    return 4 * parameter_count(config)


def flops_per_image(config: VisionMoeConfig) -> int:
    """Operations of matrix products for one image: multiply-adds times 2.

    Counted are the patch embedding, the attention (projections, scores, weighted sums), the MLPs, the
    routers, the representation and the head. Experts count by slots, filled or not, since the forms "gather"
    and "einsum" compute them all: so many are paid for, however the tokens choose. Left out are biases,
    norms, softmax, gelu, the choice and the sorting of tokens, and the weighted sum of the experts' outputs;
    and the products with one-hot arrays, which only "einsum" has. "ragged" computes assignments, not slots.

    Where several images are routed together, this is an image's share of their group's slots, rounded.
    """
    h, m, tokens = config.hidden, config.mlp, config.tokens
    height, width, channels = config.image_shape
    total = 2 * (height // config.patch) * (width // config.patch) * config.patch**2 * channels * h
    for block in range(config.layers):
        total += 2 * (4 * tokens * h * h + 2 * tokens * tokens * h)
        if block in config.moe_layers:
            expert_map, group = config.expert_map(block), config.group or tokens
            slots = capacity(group, config.router, expert_map.capacity_experts) * len(expert_map.live_columns)
            total += 2 * tokens * h * expert_map.columns + round(2 * 2 * h * m * (slots * tokens / group))
        else:
            total += 2 * 2 * tokens * h * m
    inner = config.representation or h
    return total + 2 * inner * config.classes + (2 * h * inner if config.representation else 0)
