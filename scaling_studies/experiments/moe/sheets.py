"""Tables on the console of what a checkpoint holds, and of what pruning took out of it."""

from collections.abc import Mapping
from typing import Any

from qrt_tn.studies.benchmarks.sheets import Sheet


def pruned_sheet(about: Mapping[str, Any]) -> Sheet:
    """Which experts went from each layer, from what `prune_checkpoint` returns."""
    before, after = about["bytes"]["before"], about["bytes"]["after"]
    rows = []
    for block, found in about["experts"].items():
        scores = found.get("scores", {})
        lowest = ", ".join(f"{scores[str(number)]:.3g}" for number in found["gone"] if str(number) in scores)
        gone, kept = (", ".join(map(str, found[name])) or "none" for name in ("gone", "kept"))
        rows.append((block, gone, lowest or "-", kept))
    ties = "; ".join(
        f"{', '.join(map(str, found['ties']))} of layer {block}"
        for block, found in about["experts"].items()
        if "ties" in found
    )
    return Sheet(
        f"Experts pruned by {about['criterion']}, {about['mode']}",
        f"{before:,} bytes before, {after:,} after: {(before - after) / before:.1%} less."
        " Experts by the numbers they had first."
        + (f" Of equal scores, some of which go: {ties}." if ties else ""),
        ("layer", "gone", "their scores", "kept"),
        tuple(rows),
    )


def inspection_sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """The tables of what `inspect` returns."""
    like = found["looks_like"] or "no model of vmoe that is known here"
    released = f" Released under this name: {', '.join(found['released'])}." if found["released"] else ""
    sizes = ", ".join(
        f"{name} {found[name]}" for name in ("blocks", "hidden", "mlp", "heads", "patch", "tokens", "classes")
    )
    parts = [
        (name, f"{entry['parameters']:,}", f"{entry['bytes']:,}", f"{entry['bytes'] / found['bytes']:.1%}")
        for name, entry in found["parts"].items()
    ]
    parts.append(("all", f"{found['parameters']:,}", f"{found['bytes']:,}", "100.0%"))
    sheets = [
        Sheet(
            f"{found['checkpoint']}: {found['format']}",
            f"Looks like {like}.{released} {sizes}. Types: {', '.join(found['types'])}.",
            ("part", "parameters", "bytes", "share"),
            tuple(parts),
        )
    ]
    if found["layers"]:
        sheets.append(
            Sheet("Layers of experts", _pruned_note(found["pruning"]), _HEAD, tuple(_layers(found["layers"])))
        )
    return sheets


_HEAD = ("layer", "experts", "router", "members", "original numbers", "norms of columns")


def _layers(layers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for block, entry in layers.items():
        norms = entry["router_norms"]
        shown = "not read (--norms)" if norms is None else " ".join(f"{norm:.3g}" for norm in norms)
        original = "-" if entry["original"] is None else ", ".join(map(str, entry["original"]))
        shape = " x ".join(map(str, entry["router_shape"]))
        rows.append((block, str(entry["experts"]), shape, str(entry["members"]), original, shown))
    return rows


def _pruned_note(pruning: Mapping[str, Any] | None) -> str:
    if pruning is None:
        return "Nothing is known of any pruning."
    return f"Pruned from {pruning['finetuned']} by {pruning['criterion']}, {pruning['mode']}."
