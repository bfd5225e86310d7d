"""One mixture of experts of a study: pre-trained, fine-tuned, and pruned in every way that is asked for."""

import statistics as stats
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qrt_tn.models.images import Images
from qrt_tn.models.moe.costs import flops_per_image, parameter_count
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig, preset
from qrt_tn.studies.experiments.moe.data import load_set, parse_spec
from qrt_tn.studies.experiments.moe.networks import Pair, check_sets, train_pair
from qrt_tn.studies.experiments.moe.pruning import check_ways, prune_networks
from qrt_tn.studies.experiments.moe.settings import RANDOM, Moe
from qrt_tn.studies.progress import StageTimer

SAID_EVERY = 10.0  # seconds
# settings of a point that change the preset's of the same name, where they are given
CHANGED = (
    *("pretrain", "finetune", "pretrain_points", "finetune_points", "pretrain_steps", "finetune_steps"),
    *("hidden", "mlp", "layers", "experts", "selected"),
)
Row = Mapping[str, Any]


def measure(settings: Moe, seed: int, context: Context) -> Mapping[str, list[Row]]:
    """Train a network, prune its experts in every way, and set the results against random pruning.

    Weights, order, images and random draws of seed s are those of seed s in `qrt-tn moe study`. The trained
    networks are kept in the point's folder, so that it goes on there after a kill.

    Args:
        settings: what to train and how to prune.
        seed: of weights, order of images, which images, and random draws.
        context: of the point.

    Returns:
        The tables of `EXPERIMENT`. Accuracies of "random" are means over its draws; fine-tuned is the first.

    Raises:
        ValueError: settings that do not fit each other or the data; nothing is trained then.
        UnavailableError: the images are not on this machine.
    """
    config = study_config(settings)
    check_ways(config)
    before, after = (_images(name) for name in (config.pretrain, config.finetune))
    check_sets(config, before, after)
    for images in (before, after):
        context.say(images.describe())
    show = _Steps(context, config.pretrain_steps + config.finetune_steps)
    pair = train_pair(config, settings.router, seed, (before, after), context.folder, show.advance, [0])
    context.say(f"trained: test accuracy {pair.accuracy:.4f}")
    rows, _, notes = prune_networks(config, [pair], StageTimer())
    for note in notes:
        context.say(note)
    network = {name: value for name, value in pair.row.items() if name not in ("router", "seed")}
    return {"pruned": list(_compared(rows, pair)), "networks": [network]}


def _compared(rows: Sequence[Row], pair: Pair) -> Iterator[Row]:
    """The rows of a network, its random draws as one, with what each gains over them."""
    draws: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["criterion"] == RANDOM:
            draws.setdefault((row["mode"], row["pruned"]), []).append(row["accuracy"])
    means = {key: stats.mean(accuracies) for key, accuracies in draws.items()}
    first = {pruned: mean for (_, pruned), mean in reversed(means.items())}
    whole = parameter_count(pair.config), flops_per_image(pair.config)
    for row in rows:
        if row["draw"]:
            continue
        # merging has a mode of its own, and is set against the first of the others
        random = means.get((row["mode"], row["pruned"]), first[row["pruned"]])
        accuracy = random if row["criterion"] == RANDOM else row["accuracy"]
        yield {
            **{name: row[name] for name in ("criterion", "mode", "pruned")},
            **{name: row[name] for name in ("ratio", "parameters", "bytes", "flops", "finetuned_accuracy")},
            "accuracy": accuracy,
            "gain": accuracy - random,
            "loss": pair.accuracy - accuracy,
            "parameters_left": row["parameters"] / whole[0],
            "flops_left": row["flops"] / whole[1],
        }


def study_config(settings: Moe) -> MoeStudyConfig:
    """The settings of `qrt-tn moe study` that a point stands for.

    Raises:
        ValueError: settings that do not fit each other.
    """
    criteria = tuple(dict.fromkeys([*settings.criteria, RANDOM]))
    changes: dict[str, Any] = {name: getattr(settings, name) for name in CHANGED if getattr(settings, name)}
    changes |= {"routers": (settings.router,), "modes": tuple(settings.modes), "criteria": criteria}
    changes |= {"prune": tuple(settings.prune), "random_draws": settings.draws}
    changes |= {"tune_steps": settings.tune_steps, "tune_prune": tuple(settings.prune)}
    changes |= {"tune_criteria": criteria, "tune_draws": 1}
    if settings.layers:
        changes["moe_layers"] = tuple(range(settings.layers))
    return preset(settings.preset, **changes)


def _images(text: str) -> Images:
    parse_spec(text)  # what is written wrongly is wrong on every machine
    try:
        return load_set(text)
    except ValueError as error:
        raise UnavailableError(str(error)) from error


class _Steps:
    """Says from time to time how far training is."""

    def __init__(self, context: Context, total: int) -> None:
        self._context, self._total = context, total
        self._done, self._said = 0, time.monotonic()

    def advance(self, steps: int) -> None:
        self._done += steps
        if time.monotonic() - self._said > SAID_EVERY:
            self._said = time.monotonic()
            self._context.say(f"training: step {self._done} of {self._total}")
