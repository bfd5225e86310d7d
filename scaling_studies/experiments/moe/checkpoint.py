"""Pruning a checkpoint from disk to disk, without building its network unless images are to be looked at."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.models.moe.checkpoints.native import save_moe_tree
from qrt_tn.models.moe.checkpoints.vmoe import inspect_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.vmoe_save import save_vmoe_checkpoint
from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge
from qrt_tn.models.moe.pruning import choices, remove
from qrt_tn.models.moe.selection import Selection, choose_experts, choose_layers
from qrt_tn.models.moe.statistics import LayerStatistics, calibrate
from qrt_tn.models.moe.trees import (
    check_pair,
    from_tree,
    infer_config,
    moe_layers,
    parameter_bytes,
    read_layers,
    router_kernel,
)
from qrt_tn.studies import folders, provenance
from qrt_tn.studies.experiments.moe.config import MERGE
from qrt_tn.studies.experiments.moe.data import calibration_images
from qrt_tn.studies.experiments.moe.request import PruneRequest
from qrt_tn.studies.experiments.moe.source import (
    KIND,
    NATIVE,
    Source,
    digests,
    read_source,
    sidecar,
    source_files,
)
from qrt_tn.studies.progress import StageTimer

_BATCH = 128


def prune_checkpoint(request: PruneRequest, command: str, timer: StageTimer) -> dict[str, Any]:
    """Prune a checkpoint, and write a smaller one of the same format.

    A vmoe checkpoint has beside it a file `<prefix>.json` that says how it was pruned, a file of ours says so
    in its metadata. Neither is ever written half, nor over anything that is there.

    Args:
        request: what to do.
        command: the command line that repeats it.
        timer: shows the work.

    Returns:
        What is kept with the checkpoint, and under "written" the files.

    Raises:
        ValueError: checkpoints that cannot be read or are of different models, or too many experts to go.
    """
    names = [name for name in (request.finetuned, request.pretrained) if name is not None]
    for name in names:
        source_files(name)  # a name that is wrong is told before anything is read
    with timer.stage("Reading", len(names)) as stage:
        source = read_source(request.finetuned)
        stage.advance()
        before = None if request.pretrained is None else read_source(request.pretrained)
    tree, config = source.tree, _network(request, source)
    if before is not None:
        _check_models(source, before)
    selected = choices(config) if config is not None else _selected(request)
    _check_choices(request, config, tree, selected)
    statistics = None
    if request.needs_images:
        statistics, calibrated = _statistics(request, source, config, timer)
    layers = read_layers(tree, maps=source.maps, groups=request.groups)
    maps = {block: layer.expert_map for block, layer in layers.items()}
    with timer.stage("Choosing experts and taking them out", 1) as stage:
        selection = None
        if request.criterion == MERGE:
            assert statistics is not None and request.left is not None
            smaller, left = merge(
                tree,
                statistics,
                request.left,
                maps=maps,
                layers=request.layers,
                groups=request.groups,
            )
        else:
            known = read_layers(
                tree,
                maps=maps,
                groups=request.groups,
                pretrained=None if before is None else before.tree,
                statistics=statistics,
            )
            selection = choose_experts(
                choose_layers(known, request.layers),
                request.criterion,
                n_prune=request.prune,
                scope=request.scope,
                budget_bytes=request.budget_bytes,
                total_bytes=parameter_bytes(tree),
                min_experts=request.least,
                selected=selected,
                seed=request.seed,
            )
            smaller, left = remove(
                tree, selection.kept, request.mode, maps=maps, selected=selected, groups=request.groups
            )
        stage.advance()
    about = {
        "format": KIND,
        **{name: value for name, value in asdict(request).items() if name not in ("out", "finetuned")},
        "mode": MERGE if request.criterion == MERGE else request.mode,
        "pretrained": None if before is None else Path(before.name).name,
        "finetuned": Path(source.name).name,
        "selected": selected,
        "experts": _experts(maps, left, selection),
        "maps": {str(block): expert_map.plain() for block, expert_map in left.items()},
        "unpruned_experts": ",".join(f"encoderblock_{block}={one.experts}" for block, one in left.items()),
        "bytes": {"before": parameter_bytes(tree), "after": parameter_bytes(smaller)},
        "calibration": calibrated if request.needs_images else None,
        "earlier": source.about.get("experts"),
        "command": command,
        "versions": provenance.versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with timer.stage("Hashing the sources and writing", 2) as stage:
        held = (("finetuned", source), ("pretrained", before))
        about["sources"] = {role: digests(one) for role, one in held if one is not None}
        stage.advance()
        written = _write(request, source, smaller, left, about)
    return {**about, "written": [str(path) for path in written]}


def _check_models(source: Source, before: Source) -> None:
    """See that two checkpoints are of one model, before and after training.

    Raises:
        ValueError: they are of different models, or of one and the same training.
    """
    check_pair(source.tree, before.tree)
    if source.config is not None and before.config is not None:
        for name in ("router", "heads", "patch", "image_shape", "group"):
            ours, theirs = getattr(source.config, name), getattr(before.config, name)
            if ours != theirs:
                raise ValueError(
                    f"{name} is {ours} in {source.name} and {theirs} in {before.name};"
                    " give checkpoints of one model"
                )
    if all(
        np.array_equal(router_kernel(source.tree, block), router_kernel(before.tree, block))
        for block in moe_layers(source.tree)
    ):
        raise ValueError(
            f"the routers of {source.name} and {before.name} are equal; give the checkpoint from before"
            " fine-tuning as --pretrained"
        )


def _check_choices(
    request: PruneRequest, config: VisionMoeConfig | None, tree: Mapping[str, Any], selected: int
) -> None:
    """See that tokens go to no more experts than there are, and that sets are picked for token choice.

    Raises:
        ValueError: they do, or experts choose.
    """
    for block in moe_layers(tree):
        columns = router_kernel(tree, block).shape[-1]  # of an ensemble, those of a member
        if selected > columns:
            raise ValueError(
                f"selected is {selected}, but the router of block {block} has {columns} columns;"
                " give --selected as the network has it"
            )
    if config is not None and config.router.kind == "expert-choice" and request.picks_sets:
        raise ValueError(
            f"criterion {request.criterion!r} is defined for token choice, and in {request.finetuned} experts"
            " choose; take another criterion"
        )


def _selected(request: PruneRequest) -> int:
    """K where no network is known."""
    return 1 if request.router == "expert-choice" else request.selected or RouterConfig().selected


def _network(request: PruneRequest, source: Source) -> VisionMoeConfig | None:
    """The network's configuration: the file's, with the options; of vmoe's format only if it is to be run."""
    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("kind", request.router),
            ("selected", request.selected),
            ("capacity_factor", request.capacity_factor),
        )
        if value is not None
    }
    if source.config is not None:
        return replace(source.config, router=replace(source.config.router, **options))
    if not request.needs_images:
        return None
    if request.groups > 1 or any(
        router_kernel(source.tree, block).ndim > 2 for block in moe_layers(source.tree)
    ):
        raise ValueError(
            f"{request.criterion!r} has to run the network, which is not offered for ensembles; take a"
            " criterion of weights, such as router-change"
        )
    return infer_config(source.tree, router=RouterConfig(**options), maps=source.maps)


def _statistics(
    request: PruneRequest, source: Source, config: VisionMoeConfig | None, timer: StageTimer
) -> tuple[Mapping[int, LayerStatistics], dict[str, Any]]:
    assert config is not None and request.calibration is not None
    x, name = calibration_images(request.calibration, request.images, request.seed)
    if x.shape[1:] != config.image_shape:
        raise ValueError(
            f"{request.calibration} has images of shape {x.shape[1:]}, the network takes"
            f" {config.image_shape}; bring them to that shape"
        )
    network = from_tree(source.tree, config)
    with timer.stage("Calibration", len(x)) as stage:
        seen = [0]

        def show(now: int) -> None:
            stage.advance(now - seen[0])
            seen[0] = now

        found = calibrate(network, x, batch_size=min(_BATCH, len(x)), progress=show)
    return found, {"name": name, "images": len(x), "router": asdict(config.router), "group": config.group}


def _experts(
    before: Mapping[int, ExpertMap], after: Mapping[int, ExpertMap], selection: Selection | None
) -> dict[str, Any]:
    """What became of each layer's experts, by the numbers they had before anything was removed."""
    found: dict[str, Any] = {}
    for block, expert_map in after.items():
        had = before[block].source_ids
        entry: dict[str, Any] = {
            "kept": list(expert_map.source_ids),
            "gone": [number for number in had if number not in expert_map.source_ids],
        }
        scores = selection.scores.get(block) if selection is not None else None
        if scores is not None:
            entry["scores"] = {str(number): float(one) for number, one in zip(had, scores, strict=True)}
        if selection is not None and block in selection.ties:
            entry["ties"] = [had[place] for place in selection.ties[block]]
        found[str(block)] = entry
    return found


def _write(
    request: PruneRequest,
    source: Source,
    tree: dict[str, Any],
    maps: Mapping[int, ExpertMap],
    about: Mapping[str, Any],
) -> tuple[Path, ...]:
    out = request.out
    if source.form == NATIVE:
        assert source.config is not None
        save_moe_tree(out, tree, replace(source.config, maps=maps), about=about)
        return (out,)
    found = inspect_vmoe_checkpoint(source.name)
    # the index, without which there is no checkpoint, comes last of all
    folders.write_json(sidecar(out), about)
    try:
        save_vmoe_checkpoint(out, tree, shards=found.shard_count)
    except BaseException:
        sidecar(out).unlink(missing_ok=True)
        raise
    return (*source_files(out), sidecar(out))
