"""The study of pruned mixtures of experts from end to end: networks, pruning, savings, theory, a report."""

import datetime
import time
from pathlib import Path
from typing import Any

from qrt_tn.models.images import Images
from qrt_tn.models.moe.criteria import CRITERIA
from qrt_tn.studies import folders, provenance
from qrt_tn.studies.experiments.moe.config import MERGE, OF_NETWORKS, MoeStudyConfig
from qrt_tn.studies.experiments.moe.data import Points, draw_points, load_set
from qrt_tn.studies.experiments.moe.networks import FOLDER, Pair, check_sets, train_networks
from qrt_tn.studies.experiments.moe.pruning import check_ways, prune_networks
from qrt_tn.studies.experiments.moe.savings import bench_config, measure_savings
from qrt_tn.studies.experiments.moe.theory import measure_theory
from qrt_tn.studies.progress import StageTimer

KIND = "qrt-tn.moe-study"
Row = dict[str, Any]


def run_study(config: MoeStudyConfig, command: str, timer: StageTimer) -> Path:
    """Run a study and write its folder: networks, tables, figures and report.

    Every network is kept in the subfolder `networks` once it is trained, so that the same call goes on after
    a kill; more seeds, routers, criteria, modes or numbers may be asked for then.

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
    check_ways(config)
    before, after = load_set(config.pretrain), load_set(config.finetune)
    check_sets(config, before, after)
    _claim(config, before, after)
    for images in (before, after):
        timer.say(images.describe())
    pairs, read = train_networks(config, before, after, timer)
    notes = []
    if read:
        notes.append(f"{read} of {2 * len(pairs)} trainings were done by an earlier call.")
    pruned, scores, left_out = prune_networks(config, pairs, timer)
    notes += left_out
    tables: dict[str, list[Row]] = {
        "networks": [pair.row for pair in pairs],
        "pruned": pruned,
        "scores": scores,
    }
    about: dict[str, Any] = {}
    if config.savings:
        tables["savings"] = measure_savings(config, timer)
        about["savings"] = {
            f"{router}, {experts} experts": bench_config(config, router, experts).plain()
            for router in config.routers
            for experts in config.savings_experts
        } | {"batch": config.savings_batch, "rounds": config.savings_rounds}
    if config.theory:
        found, about["theory"] = measure_theory(config, timer)
        tables |= found
    if config.ridgelets:
        from qrt_tn.studies.experiments.moe.ridgelets import RidgeletSettings, compare

        settings = RidgeletSettings.quick() if config.name == "quick" else RidgeletSettings()
        tables |= compare(settings, timer)
    for old in config.out.glob("*.parquet"):
        if not tables.get(old.stem):
            old.unlink()  # of an earlier call that asked for more
    for name, table in tables.items():
        if table:
            folders.write_table(config.out / f"{name}.parquet", table)
    for note in notes:
        timer.say(note)
    manifest = _manifest(config, command, (before, after), pairs, notes) | about
    manifest |= {"timings": dict(timer.seconds), "seconds": time.perf_counter() - started}
    folders.write_json(config.out / "manifest.json", manifest)
    from qrt_tn.studies.report import moe as report

    with timer.stage("Report", 1) as stage:
        written = report.write(config.out)
        stage.advance()
    return written


def _claim(config: MoeStudyConfig, before: Images, after: Images) -> None:
    """Make the folder this study's, or see that it is.

    Raises:
        ValueError: it holds other files, or the networks of another study.
    """
    about = {name: value for name, value in config.plain().items() if name in OF_NETWORKS}
    # sets are known by their images, not by their names
    settings = {name: value for name, value in about.items() if name not in ("pretrain", "finetune")}
    arrays = [part for images in (before, after) for part in (images.x[:1000], images.y, images.y_test)]
    folders.claim_folder(config.out, FOLDER, KIND, settings, about, arrays)


def _manifest(
    config: MoeStudyConfig,
    command: str,
    sets: tuple[Images, Images],
    pairs: list[Pair],
    notes: list[str],
) -> dict[str, Any]:
    before, after = sets
    of_both = {
        name: _about(images, draw_points(images, 0, points, config.test_points))
        for name, images, points in (
            ("pretrain", before, config.pretrain_points),
            ("finetune", after, config.finetune_points),
        )
    }
    return {
        "title": f"Pruned experts: {before.name}, fine-tuned on {after.name}",
        "command": command,
        "preset": config.name,
        "settings": config.plain(),
        "datasets": of_both,
        "networks": {pair.router: pair.config.plain() for pair in pairs},
        "criteria": {name: CRITERIA[name].source for name in config.criteria if name != MERGE},
        "notes": notes,
        "versions": provenance.versions(),
        "machine": provenance.machine("jax"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
    }


def _about(images: Images, points: Points) -> dict[str, Any]:
    return {
        "name": images.name,
        "train": len(points.x),
        "test": len(points.x_test),
        "image_shape": list(images.image_shape),
        "outputs": images.outputs,
        "classes": list(images.classes),
    }
