"""The networks of a study: pre-trained on one set, fine-tuned on another, and kept in files."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from qrt_tn.models.images import Images
from qrt_tn.models.moe.checkpoints.native import load_moe_tree, save_moe_tree
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.costs import parameter_count
from qrt_tn.models.moe.training import accuracy, train_moe
from qrt_tn.models.moe.trees import Tree, from_tree, to_tree
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig
from qrt_tn.studies.experiments.moe.data import Points, draw_points
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer

FOLDER = "networks"
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """One network before and after fine-tuning.

    Attributes:
        router: kind of its routers.
        seed: of its weights, of the order of images, and of which are trained on.
        config: its shape after fine-tuning, whole.
        pretrained: its tree before.
        tree: its tree after.
        points: of the fine-tuning set.
        pretrained_accuracy: on the pre-training set's test images.
        accuracy: on those of the fine-tuning set.
        seconds: that training both took; those of the call that trained it.
    """

    router: str
    seed: int
    config: VisionMoeConfig
    pretrained: Tree
    tree: Tree
    points: Points
    pretrained_accuracy: float
    accuracy: float
    seconds: float

    @property
    def row(self) -> Row:
        """Its row of the table "networks"."""
        return {
            "router": self.router,
            "seed": self.seed,
            "pretrained_accuracy": self.pretrained_accuracy,
            "accuracy": self.accuracy,
            "parameters": parameter_count(self.config),
            "seconds": self.seconds,
        }


def train_networks(
    config: MoeStudyConfig, before: Images, after: Images, timer: StageTimer
) -> tuple[list[Pair], int]:
    """Every network of a study; those that its folder has are read, the others trained and kept there.

    Args:
        config: the study's settings.
        before: the set to pre-train on.
        after: the set to fine-tune on.
        timer: shows the training.

    Returns:
        The networks, by kind of router and by seed; and how many of their trainings were read from files.
    """
    kept = [0]

    def task(router: str, seed: int, advance: Callable[[int], None]) -> Callable[[], Pair]:
        def work() -> Pair:
            return train_pair(config, router, seed, (before, after), config.out / FOLDER, advance, kept)

        return work

    # the kinds in turn, so that the first to run side by side compile different programs
    wanted = [(router, seed) for seed in range(config.seeds) for router in config.routers]
    steps = len(wanted) * (config.pretrain_steps + config.finetune_steps)
    with timer.stage(f"Training of {len(wanted)} networks", steps) as stage:
        tasks = [task(router, seed, stage.advance) for router, seed in wanted]
        pairs = side_by_side(tasks, lambda: None)
    return sorted(pairs, key=lambda pair: (config.routers.index(pair.router), pair.seed)), kept[0]


def check_sets(config: MoeStudyConfig, before: Images, after: Images) -> None:
    """See that one network can learn from both sets, with batches as large as asked for.

    Raises:
        ValueError: shapes that differ or do not split into patches, or too few images.
    """
    if before.image_shape != after.image_shape:
        raise ValueError(
            f"{before.name} has images of shape {before.image_shape}, {after.name} of {after.image_shape};"
            " give sets of one shape"
        )
    for images, points in ((before, config.pretrain_points), (after, config.finetune_points)):
        config.network(config.routers[0], images.image_shape, images.outputs)
        held = len(draw_points(images, 0, points, 1).x)
        if held < config.batch_size:
            raise ValueError(
                f"{held} training images of {images.name} are fewer than a batch of {config.batch_size};"
                " give a smaller batch_size, or more points"
            )


def train_pair(
    config: MoeStudyConfig,
    router: str,
    seed: int,
    sets: tuple[Images, Images],
    folder: Path,
    advance: Callable[[int], None],
    kept: list[int],
) -> Pair:
    """One network, pre-trained and fine-tuned; read from the folder where it is there, else kept there.

    Args:
        config: the study's settings.
        router: kind of its routers.
        seed: of weights, order and images.
        sets: to pre-train and to fine-tune on.
        folder: of the files.
        advance: takes steps of training that are done.
        kept: its one number grows by the trainings that were read.
    """
    before, after = sets
    first = draw_points(before, seed, config.pretrain_points, config.test_points)
    second = draw_points(after, seed, config.finetune_points, config.test_points)

    def begun() -> VisionMoe:
        return VisionMoe(
            config.network(router, before.image_shape, before.outputs), rngs=nnx.Rngs(seed), dispatch="gather"
        )

    place = folder / f"{router}-{seed}"
    pretrained, known = _trained(
        Path(f"{place}-pretrained.safetensors"),
        (config, config.pretrain_steps, [seed, 0]),
        begun,
        first,
        advance,
        kept,
    )
    shape = config.network(router, after.image_shape, after.outputs)
    tree, found = _trained(
        Path(f"{place}-finetuned.safetensors"),
        (config, config.finetune_steps, [seed, 1]),
        lambda: from_tree(with_new_head(pretrained, after.outputs), shape, dispatch="gather"),
        second,
        advance,
        kept,
    )
    return Pair(
        router,
        seed,
        shape,
        pretrained,
        tree,
        second,
        known["accuracy"],
        found["accuracy"],
        known["seconds"] + found["seconds"],
    )


def _trained(
    path: Path,
    how: tuple[MoeStudyConfig, int, list[int]],
    begun: Callable[[], VisionMoe],
    points: Points,
    advance: Callable[[int], None],
    kept: list[int],
) -> tuple[Tree, Mapping[str, Any]]:
    """The weights in a file, with accuracy and seconds; trained and written there if it is not whole."""
    config, steps, seed = how
    if path.is_file():
        try:
            tree, _, about = load_moe_tree(path)
            about = {name: float(about[name]) for name in ("accuracy", "seconds")}
        except (ValueError, KeyError):
            pass  # damaged: trained again
        else:
            kept[0] += 1
            advance(steps)
            return tree, about
    done = [0]

    def show(now: int, of: int) -> None:
        advance(now - done[0])
        done[0] = now

    started = time.perf_counter()
    network = begun()
    train_moe(
        network, points.x, points.y, config.recipe(steps), seed=np.random.default_rng(seed), progress=show
    )
    about = {
        "accuracy": accuracy(network, points.x_test, points.y_test),
        "seconds": time.perf_counter() - started,
    }
    tree = to_tree(network)
    save_moe_tree(path, tree, network.config, about=about)
    return tree, about


def with_new_head(tree: Tree, classes: int) -> Tree:
    """A tree whose head is zeros for so many classes; everything else stays, the routers too."""
    kernel = tree["head"]["kernel"]
    fresh = {"kernel": np.zeros((len(kernel), classes), np.float32), "bias": np.zeros(classes, np.float32)}
    return {**tree, "head": fresh}
