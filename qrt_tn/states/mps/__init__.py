"""Matrix product states in the Fourier basis: algebra, samples, amplitudes and profiles."""

from qrt_tn.states.mps.state import MPSState, from_mps

__all__ = ["MPSState", "from_mps"]
