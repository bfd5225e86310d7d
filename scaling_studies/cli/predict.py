"""The command line's use of a model: qrt-tn predict."""

import sys
from pathlib import Path
from typing import Annotated

import typer

predict_app = typer.Typer(add_completion=False)


@predict_app.command("predict")
def predict(
    folder: Annotated[Path, typer.Argument(help="the output folder of qrt-tn ticket")],
    data: Annotated[Path, typer.Argument(help="points, in a file of the kind that the model learnt from")],
    out: Annotated[Path | None, typer.Option(help="a csv file; left out: standard output")] = None,
) -> None:
    """Predict labels or numbers for new points with the model that a ticket run left behind."""
    from qrt_tn.models.tables import check_source

    check_source(data)
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; give another file with --out")
    import pandas as pd

    from qrt_tn.engine.atomic import atomic_path
    from qrt_tn.models import load
    from qrt_tn.models.npz import read_npz
    from qrt_tn.models.tables import read_table

    model = load(folder)
    if data.suffix.lower() == ".npz":
        arrays, known = read_npz(data, lambda names: [name for name in names if name in ("x", "X")])
        if not arrays:
            raise ValueError(f"{data} has no array 'x'; it holds {', '.join(known) or 'none'}")
        points = next(iter(arrays.values()))
    else:
        if model.columns is None:
            raise ValueError(
                f"{data} is a table, but the model learnt from an npz file; give an npz with array x"
            )
        points = read_table(data, header=model.columns.header).frame
        ignored = [name for name in model.columns.ignored(points) if name != model.target]
        if ignored:
            print(f"ignored: {', '.join(ignored)}", file=sys.stderr)
    found = model.predict(points)
    if found.ndim == 1:
        table = pd.DataFrame({model.target: found})
    else:
        table = pd.DataFrame(found, columns=[f"{model.target} {k}" for k in range(found.shape[1])])
    if out is None:
        table.to_csv(sys.stdout, index=False)
        return
    with atomic_path(out) as partial:
        table.to_csv(partial, index=False)
    print(f"{len(table):,} predictions: {out}")
