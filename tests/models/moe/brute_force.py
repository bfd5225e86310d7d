"""Routing and a whole network by explicit loops over tokens, in NumPy, to compare with."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ATTENTION = ("LayerNorm_0", "LayerNorm_1", "SelfAttention")


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def slots_of(tokens, config, experts):
    if config.capacity_factor is None:
        return tokens
    k = config.selected if config.kind == "token-choice" else 1
    slots = math.ceil(tokens * k * config.capacity_factor / experts)
    while slots % config.multiple_of:
        slots += 1
    return min(slots, tokens)


def weights(logits, config, expert_map):
    """Combine weight of each pair of a token and a column, 0 where there is no assignment; shape (S, C)."""
    gates = softmax(np.asarray(logits, np.float64))
    tokens, columns = gates.shape
    slots = slots_of(tokens, config, expert_map.capacity_experts)
    divided = config.softmax == "after" or expert_map.renormalized
    found = np.zeros_like(gates)
    if config.kind == "expert-choice":
        for column in range(columns):
            if expert_map.column_to_expert[column] >= 0:
                for token in sorted(range(tokens), key=lambda t: -gates[t, column])[:slots]:
                    found[token, column] = gates[token, column]
        if divided:
            total = found.sum(axis=1, keepdims=True)
            found = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return found
    choices = [sorted(range(columns), key=lambda c: -gates[t, c])[: config.selected] for t in range(tokens)]
    order = list(range(tokens))
    if config.batch_priority:
        order.sort(key=lambda t: -gates[t, choices[t][0]])
    taken = [0] * columns
    for rank in range(config.selected):
        for token in order:
            column = choices[token][rank]
            taken[column] += 1
            if taken[column] <= slots and expert_map.column_to_expert[column] >= 0:
                total = sum(gates[token, c] for c in choices[token]) if divided else 1.0
                found[token, column] = gates[token, column] / total
    return found


def gelu(z):
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def experts_sum(x, found, expert_map, kernel_in, bias_in, kernel_out, bias_out):
    """sum over columns of weight * f_expert(x) for tokens (S, h)."""
    x = np.asarray(x, np.float64)
    made = np.zeros((len(x), kernel_out.shape[-1]))
    for token in range(len(x)):
        for column, expert in enumerate(expert_map.column_to_expert):
            if found[token, column] != 0:
                inside = gelu(x[token] @ kernel_in[expert] + bias_in[expert])
                made[token] += found[token, column] * (inside @ kernel_out[expert] + bias_out[expert])
    return made


@partial(jax.jit, static_argnums=0)
def embed(p, tree, x):
    conv = nn.Conv(tree["embedding"]["bias"].size, (p, p), strides=(p, p), padding="VALID")
    x = conv.apply({"params": tree["embedding"]}, x).reshape(len(x), -1, conv.features)
    if "cls" in tree:
        x = jnp.concatenate([jnp.tile(tree["cls"], (len(x), 1, 1)), x], axis=1)
    return x + tree["Encoder"]["posembed_input"]["pos_embedding"]


@partial(jax.jit, static_argnums=0)
def attend(heads, block, x):
    y = nn.LayerNorm().apply({"params": block["LayerNorm_0"]}, x)
    attention = nn.MultiHeadDotProductAttention(num_heads=heads, deterministic=True)
    x = x + attention.apply({"params": block["SelfAttention"]}, y, y)
    return x, nn.LayerNorm().apply({"params": block["LayerNorm_1"]}, x)


@partial(jax.jit, static_argnums=0)
def classify(classifier, tree, x):
    x = nn.LayerNorm().apply({"params": tree["Encoder"]["encoder_norm"]}, x)
    x = x[:, 0] if classifier == "token" else x.mean(axis=1)
    if "pre_logits" in tree:
        x = jnp.tanh(x @ tree["pre_logits"]["kernel"] + tree["pre_logits"]["bias"])
    return x @ tree["head"]["kernel"] + tree["head"]["bias"]


def forward(tree, config, x):
    """Logits of images, with flax.linen's layers where flax has them and loops for the experts."""
    x = embed(config.patch, tree, x)
    for number in range(config.layers):
        block = tree["Encoder"][f"encoderblock_{number}"]
        # of every block, so that one compiled function serves them
        x, y = map(np.asarray, attend(config.heads, {name: block[name] for name in ATTENTION}, x))
        mlp = block.get("Mlp") or block["Moe"]["Mlp"]
        weights_of_mlp = [mlp[d][part] for d in ("Dense_0", "Dense_1") for part in ("kernel", "bias")]
        if "Mlp" in block:
            kernel_in, bias_in, kernel_out, bias_out = weights_of_mlp
            x = x + gelu(y @ kernel_in + bias_in) @ kernel_out + bias_out
            continue
        expert_map, kernel = config.expert_map(number), block["Moe"]["Router"]["dense"]["kernel"]
        groups = y.reshape(-1, config.group or config.tokens, config.hidden)
        found = [weights(group @ kernel, config.router, expert_map) for group in groups]
        made = [
            experts_sum(g, own, expert_map, *weights_of_mlp) for g, own in zip(groups, found, strict=True)
        ]
        x = x + np.concatenate(made).reshape(x.shape).astype(np.float32)
    return classify(config.classifier, tree, x)
