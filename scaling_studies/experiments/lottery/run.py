"""The lottery-ticket study from end to end: rounds, controls, savings, the QRT beside it, a report."""

import datetime
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from qrt_tn.models.images import ImageFold, Images, fold, load_images
from qrt_tn.models.lottery import LotteryStudy, Preset, Run, counts, layers, save_ticket
from qrt_tn.models.vision import architecture
from qrt_tn.studies import folders, provenance
from qrt_tn.studies.experiments.lottery.config import LotteryConfig
from qrt_tn.studies.experiments.lottery.savings import file_rows, savings_rows
from qrt_tn.studies.experiments.lottery.shallow import compare
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.progress import Stage, StageTimer
from qrt_tn.studies.report import lottery as report

TRIALS = "trials"
TICKETS = "tickets"
KIND = "qrt-tn.lottery-study"
# Settings that may change between two calls for one folder: they add networks and change none.
EXTENSIBLE = ("levels", "trials", "reinitialisations")
Row = dict[str, Any]


def run_lottery(config: LotteryConfig, command: str, timer: StageTimer) -> Path:
    """Run a study and write its folder: tickets, tables, figures and report.

    Every network that is trained is kept in the subfolder `trials`, and those under way every minute, so
    that the same call goes on after a kill. More rounds, trials, redraws or controls may be asked for then.

    Args:
        config: what to run.
        command: the command line that repeats it, for the report.
        timer: shows the stages and keeps their times.

    Returns:
        The path of report.html.

    Raises:
        ValueError: data that cannot be read, settings that do not fit it, or a folder that holds something
            else; nothing is trained then.
    """
    started = time.perf_counter()
    preset = config.preset
    images = load_images(preset.data)
    parts = fold(images, config.seed, preset.validation)
    study = LotteryStudy(
        partial(_build, preset, images),
        preset,
        parts,
        controls=config.controls,
        control_levels=config.controlled,
        rewinding=config.rewinding,
        together=config.together,
        folder=config.out / TRIALS / "runs",
    )
    _claim(config, images)
    timer.say(images.describe())
    rows: list[Row] = []
    curves: list[Row] = []
    savings: list[Row] = []
    files: list[Row] = []
    shares: list[Row] = []
    tickets: list[str] = []
    if any((config.out / TRIALS / "runs").glob("*.safetensors")):
        study.notes.append(
            "Some networks were trained by an earlier call; the times by stage are the last call's."
        )
    for runs in _rounds(study, preset, timer):
        rows += [_row(run) for run in runs]
        curves += [row for run in runs for row in _curves(run)]
        first = runs[0]
        shares.append(_shares(first))
        if first.level:
            (config.out / TICKETS).mkdir(exist_ok=True)
            tickets.append(f"level-{first.level:02d}")
            path = config.out / TICKETS / f"{tickets[-1]}.safetensors"
            save_ticket(path, first.start.params, first.masks)
        savings += savings_rows(first, study.network(first), parts)
        files += file_rows(first)
    tables = {"runs": rows, "curves": curves, "savings": savings, "files": files}
    if config.shallow:
        settings = ShallowConfig.quick() if config.name == "quick" else ShallowConfig()
        tables["shallow"], tables["overlap"] = compare(settings, timer)
    for old in (*config.out.glob("*.parquet"), *(config.out / TICKETS).glob("*.safetensors")):
        if old.stem not in {*tables, *tickets}:
            old.unlink()  # of an earlier call that asked for more
    for name, table in tables.items():
        folders.write_table(config.out / f"{name}.parquet", table)
    for note in study.notes:
        timer.say(note)
    manifest = _manifest(config, command, images, parts, study, shares)
    manifest |= {"timings": dict(timer.seconds), "seconds": time.perf_counter() - started}
    folders.write_json(config.out / "manifest.json", manifest)
    with timer.stage("Report", 1) as stage:
        written = report.write(config.out)
        stage.advance()
    return written


def _build(preset: Preset, images: Images, seed: int) -> nnx.Module:
    """The network of a seed."""
    return architecture(
        preset.architecture,
        images.image_shape,
        images.outputs,
        rngs=nnx.Rngs(seed),
        kernel_init=getattr(jax.nn.initializers, preset.initializer)(),
    )


class _Bar:
    """Hands the iterations done in a round on to the round's stage."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self._done = 0

    def begin(self, stage: Stage) -> None:
        self.stage, self._done = stage, 0

    def __call__(self, done: int, total: int) -> None:
        assert self.stage is not None
        self.stage.advance(done - self._done)
        self._done = done


def _rounds(study: LotteryStudy, preset: Preset, timer: StageTimer) -> Iterator[list[Run]]:
    """The study's rounds, each shown as a stage of its iterations."""
    bar = _Bar()
    rounds = study.rounds(bar)
    for level, share in enumerate(study.shares):
        networks = study.runs_of(level)
        name = f"Level {level} of {preset.levels}: {networks} networks with {share:.1%} of the weights"
        with timer.stage(name, networks * preset.recipe.iterations) as stage:
            bar.begin(stage)
            runs = next(rounds, None)
        if runs is None:
            return
        yield runs


def _claim(config: LotteryConfig, images: Images) -> None:
    """Make the folder this study's, or see that it is.

    Raises:
        ValueError: it holds other files, or the networks of another study.
    """
    about = config.plain()
    preset = {key: value for key, value in about["preset"].items() if key not in (*EXTENSIBLE, "data")}
    settings = {**about, "preset": sorted(preset.items(), key=str)}
    folders.claim_folder(
        config.out, TRIALS, KIND, settings, about, (images.x[:1000], images.y, images.y_test)
    )


def _row(run: Run) -> Row:
    trained = run.trained
    return {
        "method": run.method,
        "level": run.level,
        "remaining": run.remaining,
        "kept": counts(run.masks)[0],
        "trial": run.trial,
        "repeat": run.repeat,
        "early_iteration": trained.early_iteration,
        "early_validation_loss": trained.at_early("validation_loss"),
        "early_test_accuracy": trained.at_early("test_accuracy"),
        "final_test_accuracy": float(trained.curves["test_accuracy"][-1]),
        "final_train_loss": float(trained.curves["train_loss"][-1]),
        "iterations": int(trained.iterations[-1]),
        "seconds": trained.seconds,
    }


def _curves(run: Run) -> list[Row]:
    about = {
        "method": run.method,
        "level": run.level,
        "remaining": run.remaining,
        "trial": run.trial,
        "repeat": run.repeat,
    }
    curves = run.trained.curves
    return [
        {**about, "iteration": int(iteration), **{name: float(curve[k]) for name, curve in curves.items()}}
        for k, iteration in enumerate(run.trained.iterations)
    ]


def _shares(run: Run) -> Row:
    kept = {name: int(mask.sum()) for name, mask in layers(run.masks).items()}
    return {"level": run.level, "remaining": run.remaining, "kept": kept}


def _manifest(
    config: LotteryConfig,
    command: str,
    images: Images,
    parts: ImageFold,
    study: LotteryStudy,
    shares: list[Row],
) -> dict[str, Any]:
    every = sum(np.size(leaf) for leaf in jax.tree.leaves(study.initial(0).params))
    return {
        "title": f"Lottery tickets in {config.preset.architecture} on {images.name}",
        "command": command,
        "preset": {"name": config.name, **config.plain()["preset"]},
        "unverified": list(config.preset.unverified),
        "rewinding": config.rewinding,
        "controls": list(config.controls),
        "dataset": {
            "name": images.name,
            "description": images.describe(),
            "train": len(parts.x_train),
            "validation": len(parts.x_validation),
            "test": len(parts.x_test),
            "image_shape": list(images.image_shape),
            "outputs": images.outputs,
        },
        "weights": {"all": every, "prunable": counts(study.full)[1]},
        "layers": shares,
        "notes": study.notes,
        "versions": provenance.versions(),
        "machine": provenance.machine("jax"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
    }
