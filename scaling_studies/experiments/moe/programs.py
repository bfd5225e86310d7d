"""Many networks of few shapes: a compiled program for each shape, weights as arguments."""

from collections.abc import Mapping
from dataclasses import replace
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.trees import Tree, from_tree, leaves, nested, read_layers, write_layers
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.studies.experiments.moe.data import Points

_AT_ONCE = 512  # images


class Program:
    """Builds and measures networks of one configuration, without compiling anything twice.

    Args:
        config: of the networks.
        order: what `leaf_order` gives for a network of the same parts.
    """

    def __init__(self, config: VisionMoeConfig, order: tuple[str, ...]) -> None:
        # only traced: its initial weights, which nobody needs, are never computed
        traced = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch="gather"))
        self._graph, state = nnx.split(traced)
        self._form, self._order = jax.tree.structure(state), order
        self._chosen = jax.jit(lambda flat, x: self._merged(flat)(x)[0].argmax(axis=1))

    def _merged(self, flat: list[jax.Array]) -> VisionMoe:
        network: VisionMoe = nnx.merge(self._graph, jax.tree.unflatten(self._form, flat))
        return network

    def _flat(self, tree: Tree) -> list[jax.Array]:
        held: dict[str, Any] = dict(leaves(tree))
        return [jnp.asarray(held[path], jnp.float32) for path in self._order]

    def network(self, tree: Tree) -> VisionMoe:
        """The network of a tree of the configuration's shapes."""
        return self._merged(self._flat(tree))

    def accuracy(self, tree: Tree, points: Points) -> float:
        """The share of the test images that a network gets right.

        Args:
            tree: of the configuration's shapes.
            points: its test images are looked at.
        """
        flat = self._flat(tree)
        size = min(len(points.x_test), _AT_ONCE)
        right = 0
        for start in range(0, len(points.x_test), size):
            x, y = points.x_test[start : start + size], points.y_test[start : start + size]
            filled = np.concatenate([x, np.repeat(x[:1], size - len(x), axis=0)])
            right += int((np.asarray(self._chosen(flat, jnp.asarray(filled)))[: len(x)] == y).sum())
        return right / len(points.x_test)


class Programs:
    """Programs by configuration, each made once; for several threads.

    Args:
        config: of a network with the same parts as all that will come, however many experts those have.
        tree: its weights.
    """

    def __init__(self, config: VisionMoeConfig, tree: Tree) -> None:
        self._order = leaf_order(config, tree)
        self._made: dict[VisionMoeConfig, Program] = {}
        self._lock = Lock()

    def _of(self, config: VisionMoeConfig) -> Program:
        with self._lock:
            if config not in self._made:
                self._made[config] = Program(config, self._order)
            return self._made[config]

    def network(self, config: VisionMoeConfig, tree: Tree) -> VisionMoe:
        """The network of a tree."""
        return self._of(config).network(tree)

    def accuracy(self, config: VisionMoeConfig, tree: Tree, points: Points) -> float:
        """The share of the test images that a network gets right.

        A merged network is measured with a copy of its expert for each column, which computes the same: every
        merged network has columns that lead to experts in another way, and would need a program of its own.
        """
        if is_merged(config):
            tree = spread(tree, config.all_maps)
            config = replace(config, maps={})
        return self._of(config).accuracy(tree, points)


def leaf_order(config: VisionMoeConfig, tree: Tree) -> tuple[str, ...]:
    """The paths of a tree in the order in which a network's state has its leaves."""
    paths = [path for path, _ in leaves(tree)]
    # each array is filled with the number of its path
    numbered = {path: np.full(np.shape(leaf), i, np.float32) for i, (path, leaf) in enumerate(leaves(tree))}
    state = jax.jit(lambda: nnx.state(from_tree(nested(numbered), config, dispatch="gather")))()
    return tuple(paths[int(np.ravel(leaf)[0])] for leaf in jax.tree.leaves(state))


def anonymous(config: VisionMoeConfig, maps: Mapping[int, ExpertMap]) -> VisionMoeConfig:
    """The configuration of a pruned network, without the numbers that its experts had before.

    These make no difference to what is computed; networks that differ only there can share a program.
    """
    nameless = {
        block: replace(expert_map, source_ids=tuple(range(expert_map.experts)))
        for block, expert_map in maps.items()
    }
    return replace(config, maps=nameless)


def is_merged(config: VisionMoeConfig) -> bool:
    """Whether several columns of a layer lead to one expert."""
    return any(
        sum(expert != NO_EXPERT for expert in expert_map.column_to_expert) > expert_map.experts
        for expert_map in config.all_maps.values()
    )


def spread(tree: Tree, maps: Mapping[int, ExpertMap]) -> Tree:
    """The tree of a merged network with a copy of its expert for each column of a router."""
    layers = {
        block: replace(
            layer,
            experts=layer.experts.take(layer.expert_map.column_to_expert),
            expert_map=ExpertMap.whole(layer.expert_map.columns),
        )
        for block, layer in read_layers(tree, maps=maps).items()
    }
    return write_layers(tree, layers)
