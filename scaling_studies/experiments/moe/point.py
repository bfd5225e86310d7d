"""One mixture of experts of a study: pre-trained, fine-tuned, pruned by a criterion, and pruned at random."""

import statistics as stats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from qrt_tn.models.images import Images
from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.checkpoints.native import load_moe_tree, save_moe_tree
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.costs import flops_per_image, parameter_count
from qrt_tn.models.moe.criteria import find_criterion
from qrt_tn.models.moe.experts import read_layers
from qrt_tn.models.moe.pruning import choices, merge, remove
from qrt_tn.models.moe.selection import choose_experts
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.training import MoeRecipe, accuracy, train_moe
from qrt_tn.models.moe.trees import Tree, from_tree, to_tree
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.moe.config import MERGE, MoeStudyConfig, preset
from qrt_tn.studies.experiments.moe.data import Points, draw_points, load_set, parse_spec
from qrt_tn.studies.experiments.moe.networks import with_new_head
from qrt_tn.studies.experiments.moe.programs import Programs, anonymous
from qrt_tn.studies.experiments.moe.settings import Moe

RANDOM = "random"
SAID_EVERY = 10.0  # seconds
# settings of a point that change the preset's of the same name, where they are given
CHANGED = (
    *("pretrain", "finetune", "pretrain_points", "finetune_points", "pretrain_steps", "finetune_steps"),
    *("hidden", "mlp", "layers", "experts", "selected", "tune_steps"),
)


def measure(settings: Moe, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Train a network, prune its experts by one criterion, and set the result against random pruning.

    Weights, order, images and random draws of seed s are those of seed s in `qrt-tn moe study`. The trained
    networks are kept in the point's folder, so that it goes on there after a kill.

    Args:
        settings: what to train and how to prune.
        seed: of weights, order of images, which images, and random draws.
        context: of the point.

    Returns:
        The metrics of `EXPERIMENT`.

    Raises:
        ValueError: settings that do not fit each other or the data; nothing is trained then.
        UnavailableError: the images are not on this machine.
    """
    config = study_config(settings)
    before, after = (_images(name) for name in (config.pretrain, config.finetune))
    if before.image_shape != after.image_shape:
        raise ValueError(
            f"{before.name} has images of shape {before.image_shape}, {after.name} of {after.image_shape};"
            " give sets of one shape"
        )
    for images in (before, after):
        context.say(images.describe())
    network = _trained(config, settings.router, seed, (before, after), context)
    pruner = _Pruner(settings, config, network)
    whole = pruner.accuracy((network.tree, network.config))
    context.say(f"trained: test accuracy {whole:.4f}")
    at_random = [pruner.smaller(RANDOM, draw) for draw in range(settings.draws)]
    random = stats.mean(map(pruner.accuracy, at_random))
    smaller, pruned = at_random[0], random
    if settings.criterion != RANDOM:
        smaller = pruner.smaller(settings.criterion)
        pruned = pruner.accuracy(smaller)
    context.say(f"pruned: test accuracy {pruned:.4f}, at random {random:.4f}")
    left, all_of_it = ((parameter_count(one), flops_per_image(one)) for one in (smaller[1], network.config))
    return {
        "accuracy": pruned,
        "accuracy_before": whole,
        "accuracy_random": random,
        "accuracy_tuned": pruner.tuned(smaller) if settings.tune_steps else None,
        "gain": pruned - random,
        "loss": whole - pruned,
        "pretrained_accuracy": network.pretrained_accuracy,
        "pruned_share": settings.pruned / settings.experts,
        "parameters": left[0],
        "parameters_left": left[0] / all_of_it[0],
        "flops": left[1],
        "flops_left": left[1] / all_of_it[1],
        "training_seconds": network.seconds,
    }


def study_config(settings: Moe) -> MoeStudyConfig:
    """The settings of `qrt-tn moe study` that a point stands for.

    Raises:
        ValueError: settings that do not fit each other.
    """
    changes = {name: getattr(settings, name) for name in CHANGED if getattr(settings, name)}
    changes |= {"routers": (settings.router,), "prune": (settings.pruned,), "tune_prune": ()}
    changes |= {"tune_steps": settings.tune_steps}
    if settings.layers:
        changes["moe_layers"] = tuple(range(settings.layers))
    return preset(settings.preset, **changes)


def _images(text: str) -> Images:
    parse_spec(text)  # what is written wrongly is wrong on every machine
    try:
        return load_set(text)
    except ValueError as error:
        raise UnavailableError(str(error)) from error


@dataclass(frozen=True, eq=False)
class _Network:
    """A network before and after fine-tuning.

    Attributes:
        config: its shape after fine-tuning.
        tree: its weights then.
        points: of the fine-tuning set.
        pretrained: its weights before.
        pretrained_accuracy: then, on the pre-training set's test images.
        seed: of the point.
        seconds: of both trainings.
    """

    config: VisionMoeConfig
    tree: Tree
    points: Points
    pretrained: Tree
    pretrained_accuracy: float
    seed: int
    seconds: float


def _trained(
    config: MoeStudyConfig, router: str, seed: int, sets: tuple[Images, Images], context: Context
) -> _Network:
    """The network of a seed, pre-trained and fine-tuned; from the point's folder where it is there."""
    before, after = sets
    first = draw_points(before, seed, config.pretrain_points, config.test_points)
    second = draw_points(after, seed, config.finetune_points, config.test_points)
    for images, points in ((before, first), (after, second)):
        if len(points.x) < config.batch_size:
            raise ValueError(
                f"{len(points.x)} training images of {images.name} are fewer than a batch of"
                f" {config.batch_size}; give more points"
            )
    shape = config.network(router, before.image_shape, before.outputs)
    tuned = config.network(router, after.image_shape, after.outputs)
    pretrained, known = _kept(
        context.folder / "pretrained.safetensors",
        lambda: VisionMoe(shape, rngs=nnx.Rngs(seed), dispatch="gather"),
        _Task("pre-training", first, config.recipe(config.pretrain_steps), [seed, 0], context),
    )
    tree, found = _kept(
        context.folder / "finetuned.safetensors",
        lambda: from_tree(with_new_head(pretrained, after.outputs), tuned, dispatch="gather"),
        _Task("fine-tuning", second, config.recipe(config.finetune_steps), [seed, 1], context),
    )
    seconds = known["seconds"] + found["seconds"]
    return _Network(tuned, tree, second, pretrained, known["accuracy"], seed, seconds)


@dataclass(frozen=True, eq=False)
class _Task:
    """A training: what it is called, on which points, how, from which seed."""

    name: str
    points: Points
    recipe: MoeRecipe
    seed: list[int]
    context: Context

    def run(self, network: VisionMoe) -> None:
        """Train a network, and say from time to time how far it is."""
        said = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said > SAID_EVERY:
                said = time.monotonic()
                self.context.say(f"{self.name}: step {done} of {total}")

        seed = np.random.default_rng(self.seed)
        train_moe(network, self.points.x, self.points.y, self.recipe, seed=seed, progress=show)


def _kept(path: Path, begun: Callable[[], VisionMoe], task: _Task) -> tuple[Tree, Mapping[str, float]]:
    """The weights in a file, with accuracy and seconds; trained and written there if it is not whole."""
    if path.is_file():
        try:
            tree, _, about = load_moe_tree(path)
            return tree, {name: float(about[name]) for name in ("accuracy", "seconds")}
        except (ValueError, KeyError):
            pass  # damaged: trained again
    started = time.perf_counter()
    network = begun()
    task.run(network)
    known = {
        "accuracy": accuracy(network, task.points.x_test, task.points.y_test),
        "seconds": time.perf_counter() - started,
    }
    tree = to_tree(network)
    save_moe_tree(path, tree, network.config, about=known)
    return tree, known


class _Pruner:
    """Makes smaller networks of one, and measures them.

    Args:
        settings: of the point.
        config: likewise.
        network: the trained one.
    """

    def __init__(self, settings: Moe, config: MoeStudyConfig, network: _Network) -> None:
        self._settings, self._config, self._network = settings, config, network
        self._programs = Programs(network.config, network.tree)

    def accuracy(self, smaller: tuple[Tree, VisionMoeConfig]) -> float:
        """Test accuracy of a tree and its configuration."""
        return self._programs.accuracy(smaller[1], smaller[0], self._network.points)

    def smaller(self, criterion: str, draw: int = 0) -> tuple[Tree, VisionMoeConfig]:
        """The network with the experts that a criterion keeps.

        Args:
            criterion: which experts go, or "merge".
            draw: of one that draws random numbers.
        """
        network, settings = self._network, self._settings
        maps, selected = network.config.all_maps, choices(network.config)
        if criterion == MERGE:
            left = settings.experts - settings.pruned
            tree, found = merge(network.tree, self._statistics(), left, maps=maps)
        else:
            looks = "statistics" in find_criterion(criterion).needs
            layers = read_layers(
                network.tree,
                maps=maps,
                pretrained=network.pretrained,
                statistics=self._statistics() if looks else None,
            )
            kept = choose_experts(
                layers,
                criterion,
                n_prune=settings.pruned,
                selected=selected,
                seed=np.random.default_rng([network.seed, draw]),
            ).kept
            tree, found = remove(network.tree, kept, settings.mode, maps=maps, selected=selected)
        return tree, anonymous(network.config, found)

    def _statistics(self) -> Mapping[int, LayerStatistics]:
        """What the experts do on training images of the fine-tuning set."""
        images = self._network.points.x[: self._config.calibration_images]
        whole = self._programs.network(self._network.config, self._network.tree)
        return calibrate(whole, images, batch_size=min(128, len(images)))

    def tuned(self, smaller: tuple[Tree, VisionMoeConfig]) -> float:
        """Test accuracy after fine-tuning what is left."""
        tree, shape = smaller
        network, points = self._programs.network(shape, tree), self._network.points
        seed = np.random.default_rng([self._network.seed, 2])
        train_moe(network, points.x, points.y, self._config.tuning, seed=seed)
        return self.accuracy((to_tree(network), shape))
