"""Smoothed samples: f^(u) tau(u) of f = sum_m c_m |x_m> and a product filter, as a matrix product state."""

from qrt_tn.states.smoothing.build import smoothed_state
from qrt_tn.states.smoothing.error import Estimate, estimated_error
from qrt_tn.states.smoothing.filters import (
    AUTO,
    Filter,
    checked_filter,
    checked_tolerance,
    checked_widths,
    filter_amplitudes,
)
from qrt_tn.states.smoothing.state import SmoothedState
from qrt_tn.states.smoothing.width import WidthChoice, automatic_width
from qrt_tn.states.smoothing.work import smoothing_work

__all__ = [
    "AUTO",
    "Estimate",
    "Filter",
    "SmoothedState",
    "WidthChoice",
    "automatic_width",
    "checked_filter",
    "checked_tolerance",
    "checked_widths",
    "estimated_error",
    "filter_amplitudes",
    "smoothed_state",
    "smoothing_work",
]
