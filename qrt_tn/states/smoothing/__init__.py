"""Smoothed samples: f^(u) tau(u) of f = sum_m c_m |x_m> and a product filter, as a matrix product state."""

from qrt_tn.states.smoothing.build import (
    AUTO,
    SmoothedState,
    exact,
    landmarks_for,
    smoothed_state,
    smoothing_cost,
)
from qrt_tn.states.smoothing.error import estimated_error
from qrt_tn.states.smoothing.gram import checked_tolerance
from qrt_tn.states.smoothing.sketch import sums_dtype
from qrt_tn.states.smoothing.width import automatic_width

__all__ = [
    "AUTO",
    "SmoothedState",
    "automatic_width",
    "checked_tolerance",
    "estimated_error",
    "exact",
    "landmarks_for",
    "smoothed_state",
    "smoothing_cost",
    "sums_dtype",
]
