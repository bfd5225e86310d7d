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
    return model, {"nodes": best, "smoothing": estimator.smoothing_, "beta": estimator.beta_}


def model_card(dataset: Dataset, found: dict[str, Any], about: dict[str, Any], command: str) -> str:
    """What the model is, what it learnt from, how good it is, in Markdown.

    Args:
        dataset: what it learnt from.
        found: of `report.comparison.summary`.
        about: what the manifest tells of the model.
        command: the command line.
    """
    rows = [row for row in found["scores"] if row["method"] == TICKET and row["training"] == "fitted"]
    (own,) = [row for row in rows if row["nodes"] == about["nodes"]]
    name = "Accuracy" if found["score"] == "accuracy" else "R^2"
    error = f", root mean square error {own['rmse']:.4g}" if "rmse" in own else ""
    classes = ""
    if dataset.classes is not None:
        listed = ", ".join(dataset.classes[:12]) + (", ..." if len(dataset.classes) > 12 else "")
        classes = f"Classes: {listed}.\n"
    return (
        f"# A model of {dataset.target} from {dataset.name}\n\n"
        f"{dataset.describe()}\n\n{classes}"
        f"A network with one hidden layer of {about['nodes']} cosine nodes, drawn from the ridgelet "
        "transform of the "
        f"data (tempered residual ticket, w = {about['smoothing']:g}, beta = {about['beta']:g}), its output "
        "weights by "
        "ridge regression on all points.\n\n"
        f"{name} on test points: {own['mean']:.4g} in the mean of {own['seeds']} random splits "
        f"({own['low']:.4g} to {own['high']:.4g}){error}. That is measured for fits to four fifths of the "
        "points.\n\n"
        "It knows no more than the data it learnt from: outside their range, and for kinds of points that "
        "were not "
        "among them, it may be wrong without a sign.\n\n"
        "```sh\nqrt-tn predict FOLDER new.csv --out predictions.csv\n```\n\n"
        '```python\nfrom qrt_tn import models\n\nmodels.load("FOLDER").predict(X)\n```\n\n'
        f"Made by `{command}`; report.html has all figures. The model is JSON and safetensors in model/; "
        "loading it "
        "runs no code of the file.\n"
    )
