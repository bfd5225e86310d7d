"""The model that a run leaves behind: the ticket fitted to all points, and its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.models import Dataset, saved
from qrt_tn.studies.experiments.ticket.methods import Fit, with_settings_of
from qrt_tn.studies.experiments.ticket.problems import filled
from qrt_tn.studies.experiments.ticket.settings import TICKET


def final_model(
    dataset: Dataset, fits: Sequence[Fit], folder: Path
) -> tuple[saved.SavedModel, dict[str, Any]]:
    """Fit the ticket to all points, with the settings of the first seed, and save it.

    The node count is the one with the smallest squared error on inner validation points, a mean over seeds.

    Args:
        dataset: all of it.
        fits: of all seeds, the first seed's first.
        folder: where the model goes.

    Returns:
        The model, and what the manifest tells of it.
    """
    own = [fit for fit in fits if fit.method == TICKET]
    counts = sorted({fit.nodes for fit in own if fit.nodes is not None})
    errors = {n: float(np.mean([fit.validation for fit in own if fit.nodes == n])) for n in counts}
    best = min(errors, key=lambda n: errors[n])
    first = next(fit for fit in own if fit.nodes == best)
    x, fills = filled(dataset, np.arange(len(dataset)))
    y = dataset.y
    if dataset.classes is None and y.shape[1] == 1:
        y = y[:, 0]
    estimator = with_settings_of(first.estimator, best).fit(x, y)
    model = saved.SavedModel(
        estimator,
        dataset.columns,
        fills,
        dataset.target,
        dataset.class_values,
        dataset.image_shape,
    )
    saved.save(folder, model)
    return model, {
        "nodes": best,
        "smoothing": estimator.smoothing_,
        "beta": estimator.beta_,
        "table": dataset.columns is not None,
    }


def model_card(
    dataset: Dataset, model: saved.SavedModel, found: dict[str, Any], folder: str, command: str
) -> str:
    """What the model is, what it learnt from, what it takes and how good it is, in Markdown.

    Args:
        dataset: what it learnt from.
        model: itself.
        found: of `report.comparison.summary`, and `model`.
        folder: the name of the run's folder.
        command: the command line.
    """
    about = found["model"]
    rows = [row for row in found["scores"] if row["method"] == TICKET and row["training"] == "fitted"]
    (own,) = [row for row in rows if row["nodes"] == about["nodes"]]
    score = "Accuracy" if found["score"] == "accuracy" else "R^2"
    error = f", root mean square error {own['rmse']:.4g}" if "rmse" in own else ""
    settings = f"w = {about['smoothing']:g}, beta = {about['beta']:g}"
    described = (
        f"A network with one hidden layer of {about['nodes']} cosine nodes, drawn from the ridgelet "
        f"transform of the data (tempered residual ticket, {settings}), "
        "its output weights by ridge regression on all points."
    )
    scored = (
        f"{score} on test points: {own['mean']:.4g} in the mean of {own['seeds']} random splits "
        f"({own['low']:.4g} to {own['high']:.4g}){error}. Those scores are of fits to four fifths of the "
        f"points. Beside other methods: {found['verdict']} {' '.join(found['findings'])}"
    )
    return f"""# A model of {dataset.target} from {dataset.name}

{dataset.describe()}

{described}

{scored}

## What it takes

{_inputs(dataset, model)}
It knows no more than the data it learnt from: outside their range, and for kinds of points that were not
among them, it may be wrong without a sign.

```sh
qrt-tn predict {folder} {"new.csv" if about["table"] else "new.npz"} --out predictions.csv
```

```python
from qrt_tn import models

model = models.load("{folder}")
model.predict(X)
```

Made by `{command}`; report.html has all figures. The model is JSON and safetensors in model/; loading it runs
no code of the file.
"""


def _inputs(dataset: Dataset, model: saved.SavedModel) -> str:
    """The columns or arrays, what missing values become, and what comes out, as a list."""
    lines = []
    if model.columns is not None:
        for column in model.columns.features:
            kind = "a number" if column.categories is None else f"one of {len(column.categories)} categories"
            lines.append(f"- `{column.name}`: {kind}")
    elif model.image_shape is not None:
        lines.append(f"- images of {' x '.join(map(str, model.image_shape))}")
    else:
        lines.append(f"- arrays of {dataset.dim} numbers a point")
    if model.fills is not None:
        lines.append(
            f"- missing numbers become the {dataset.impute} of the training points".replace("_", " ")
        )
    if dataset.classes is None:
        lines.append(f"\nIt gives {dataset.target} in its own units.")
    else:
        listed = ", ".join(dataset.classes[:12]) + (", ..." if len(dataset.classes) > 12 else "")
        lines.append(f"\nIt gives one of the classes {listed}.")
    return "\n".join(lines) + "\n"
