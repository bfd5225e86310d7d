"""The command line's mixtures of experts: qrt-tn moe study, prune and inspect."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qrt_tn.studies.cli.options import command, numbers, words
from qrt_tn.studies.progress import StageTimer

moe = typer.Typer(add_completion=False, invoke_without_command=True)


@moe.callback()
def list_commands(context: typer.Context) -> None:
    """Prune the experts of mixtures of experts: studies, and checkpoints of one's own."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@moe.command()
def study(
    preset: Annotated[
        str, typer.Option(help="quick (digits, three minutes) or small (Fashion-MNIST to MNIST)")
    ] = "quick",
    pretrain: Annotated[
        str | None,
        typer.Option(help="digits, mnist, fashion-mnist, ... or a path; with classes, such as digits:0-4"),
    ] = None,
    finetune: Annotated[str | None, typer.Option(help="likewise, with images of the same shape")] = None,
    seeds: Annotated[int | None, typer.Option(help="how many networks of each kind of router")] = None,
    routers: Annotated[
        str, typer.Option(help="token-choice, expert-choice, by commas; all if left out")
    ] = "",
    criteria: Annotated[str, typer.Option(help="criteria, by commas; all if left out")] = "",
    modes: Annotated[str, typer.Option(help="modes of removal, by commas; all if left out")] = "",
    prune: Annotated[str, typer.Option(help="experts to prune from each layer, by commas")] = "",
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="a setting of the preset, as name=value; may be given again"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="output folder; left out: runs/<preset>-moe. Goes on if begun")
    ] = None,
) -> None:
    """Pre-train, fine-tune and prune networks by every criterion; writes tables, figures and a report."""
    from qrt_tn.studies.experiments.moe.config import overrides
    from qrt_tn.studies.experiments.moe.config import preset as settings
    from qrt_tn.studies.experiments.moe.run import run_study

    changed = overrides(change or [])
    given: dict[str, Any] = {"pretrain": pretrain, "finetune": finetune, "seeds": seeds}
    for name, text in (("routers", routers), ("criteria", criteria), ("modes", modes)):
        given[name] = words(text) or None
    given["prune"] = numbers(prune, int, "prune") or None
    for name, value in given.items():
        if value is not None and name in changed:
            raise ValueError(f"{name} is given twice; leave out --set {name} or --{name}")
    changed |= {name: value for name, value in given.items() if value is not None}
    if "prune" in changed and "tune_prune" not in changed:
        kept = settings(preset).tune_prune
        changed["tune_prune"] = tuple(number for number in kept if number in changed["prune"])
    config = settings(preset, **changed, out=out or Path("runs") / f"{preset}-moe")
    written = run_study(config, command(), StageTimer())
    print(f"report: {written}")


@moe.command("prune")
def prune_command(
    finetuned: Annotated[
        str, typer.Option(help="the model to prune: a vmoe checkpoint's prefix, or our .safetensors")
    ],
    out: Annotated[Path, typer.Option(help="where to write it, in the same format: a prefix, or a file")],
    pretrained: Annotated[
        str | None, typer.Option(help="the model before fine-tuning, for criteria that compare the two")
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="by which experts are chosen; merge to merge them")
    ] = "router-change",
    prune: Annotated[
        int | None, typer.Option(help="how many experts go: of each layer, or of all with --scope global")
    ] = None,
    left: Annotated[int | None, typer.Option(help="experts that each layer keeps; for merging")] = None,
    scope: Annotated[str, typer.Option(help="layer or global")] = "layer",
    budget: Annotated[
        str | None, typer.Option(help="instead of --prune: the most bytes of parameters, such as 300MB")
    ] = None,
    mode: Annotated[str, typer.Option(help="keep-router, drop-router or renormalize")] = "keep-router",
    layers: Annotated[str, typer.Option(help="blocks, by commas; all with experts if left out")] = "",
    least: Annotated[int, typer.Option(help="experts that each layer keeps at the least")] = 1,
    groups: Annotated[int, typer.Option(help="ensemble members (E3), where the router does not tell")] = 1,
    router: Annotated[
        str | None, typer.Option(help="token-choice or expert-choice, which vmoe's checkpoints do not tell")
    ] = None,
    selected: Annotated[int | None, typer.Option(help="experts of a token in token choice")] = None,
    capacity_factor: Annotated[float | None, typer.Option(help="of the routers, for calibration")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="npz file with images x, or a set's name, for criteria that need it")
    ] = None,
    images: Annotated[int, typer.Option(help="how many images to calibrate with")] = 1024,
    seed: Annotated[int, typer.Option(help="of a criterion that draws random numbers")] = 0,
) -> None:
    """Prune the experts of a checkpoint; writes a smaller one with all that is known of how."""
    from qrt_tn.studies.benchmarks.sheets import as_rich
    from qrt_tn.studies.experiments.moe.checkpoint import prune_checkpoint
    from qrt_tn.studies.experiments.moe.request import PruneRequest, parse_bytes
    from qrt_tn.studies.experiments.moe.sheets import pruned_sheet

    request = PruneRequest(
        finetuned=finetuned,
        out=out,
        pretrained=pretrained,
        criterion=criterion,
        prune=prune,
        left=left,
        scope=scope,
        budget_bytes=None if budget is None else parse_bytes(budget),
        mode=mode,
        layers=numbers(layers, int, "layers") or None,
        least=least,
        groups=groups,
        router=router,
        selected=selected,
        capacity_factor=capacity_factor,
        calibration=calibration,
        images=images,
        seed=seed,
    )
    about = prune_checkpoint(request, command(), StageTimer())
    Console().print(as_rich(pruned_sheet(about)))
    print(f"written: {', '.join(about['written'])}")


@moe.command("inspect")
def inspect_command(
    checkpoint: Annotated[str, typer.Argument(help="a vmoe checkpoint's prefix, or our .safetensors")],
    norms: Annotated[
        bool, typer.Option("--norms", help="read the weights of a vmoe checkpoint too, for router norms")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Tell what a checkpoint holds: layers, experts, routers, parameters and bytes by part."""
    from qrt_tn.studies.benchmarks.sheets import as_rich
    from qrt_tn.studies.experiments.moe.inspection import inspect
    from qrt_tn.studies.experiments.moe.sheets import inspection_sheets

    found = inspect(checkpoint, norms=norms)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = Console()
    for sheet in inspection_sheets(found):
        console.print(as_rich(sheet))
