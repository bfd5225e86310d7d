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
    import numpy as np
    import pandas as pd

    from qrt_tn.engine.files import atomic_path
    from qrt_tn.models import load
    from qrt_tn.models.array_files import read_npz
    from qrt_tn.models.datasets import name_of_points
    from qrt_tn.models.tables import read_table, suffix_of

    model = load(folder)
    columns = model.columns
    if suffix_of(data) == ".npz":
        arrays = read_npz(data, lambda names: [name_of_points(names)])
        (points,) = arrays.values()
    elif columns is None:
        raise ValueError(
            f"{data} is a table, but the model learnt from an npz file; give an npz with array x"
        )
    else:
        header = columns.header if suffix_of(data) != ".parquet" else None
        table = read_table(data, header)
        points, ignored = columns.read(table), columns.ignored(table.frame)
        told = [f"ignored: {', '.join(ignored)}"] if ignored else []
        for name, (value, rows) in columns.unseen(points).items():
            told.append(
                f"column {name!r} holds categories the model has not seen: {value!r}, {rows} rows in all"
            )
        for line in told:
            print(line, file=sys.stderr)
    filled = int(np.isnan(model.matrix(points)).sum()) if model.fills is not None else 0
    if filled:
        print(f"filled in: {filled:,} missing numbers", file=sys.stderr)
    found = model.predict(points)
    if found.ndim == 1:
        predicted = pd.DataFrame({model.target: found})
    else:
        predicted = pd.DataFrame(found, columns=[f"{model.target} {k}" for k in range(found.shape[1])])
    if out is None:
        predicted.to_csv(sys.stdout, index=False)
        return
    with atomic_path(out) as partial:
        predicted.to_csv(partial, index=False)
    print(f"{len(predicted):,} predictions: {out}")
