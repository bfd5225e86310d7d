"""Sums of data points, f = sum_m c_m |x_m>, sampled and evaluated from the points themselves."""

from qrt_tn.states.samples.hashing import Hashes, hash_points
from qrt_tn.states.samples.rows import Points
from qrt_tn.states.samples.state import SampleState

__all__ = ["Hashes", "Points", "SampleState", "hash_points"]
