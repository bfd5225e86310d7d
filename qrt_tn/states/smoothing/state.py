"""A matrix product state that remembers how it was smoothed."""

from typing import Any

import numpy as np

from qrt_tn.states.mps import MPSState
from qrt_tn.states.smoothing.width import WidthChoice


class SmoothedState(MPSState):
    """f^ tau of data points, compressed.

    Attributes:
        smoothing: the filter: a width, one per coordinate, or a table, as given or as chosen.
        width_choice: what the automatic width tried, and the risks; None where the width was given.
        truncation_error: ||f - held|| / ||f||, exact where `truncation_error_std` is 0, else an estimate.
        truncation_error_std: standard error of that estimate.
        sketch_bond: landmarks of the sketch that was compressed; 0 where the Gram sweep was used.
        points: of f, int (M, D), and their `coefficients`, (M, C), up to scale: what was compressed.
    """

    smoothing: Any
    width_choice: WidthChoice | None = None
    truncation_error_std: float = 0.0
    sketch_bond: int = 0
    points: np.ndarray
    coefficients: np.ndarray
