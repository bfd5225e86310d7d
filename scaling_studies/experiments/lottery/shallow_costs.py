"""What each road to a shallow ticket costs: floating-point operations, counted from formulas.

A multiply-add counts as two operations. Validation, which every method does alike, is left out; so is
what is small beside these terms, such as drawing random numbers.
"""

from qrt_tn.states import MPSState
from qrt_tn.states.smoothing import SmoothedState, smoothing_cost


def training_flops(weights: int, points: int, epochs: int) -> float:
    """3 x forward per training example: 3 * 2 weights * points * epochs.

    The backward pass takes two products for each of the forward pass.

    Args:
        weights: multiply-adds of a forward pass, N (D + C) of a network with one hidden layer. Of a
            pruned one the weights left, as on a machine that skips zeros at no cost; a dense one, such as
            ours, is slower (the seconds say by how much).
        points: training points.
        epochs: passes over them.
    """
    return 6.0 * weights * points * epochs


def fitting_flops(points: int, dim: int, nodes: int, outputs: int) -> float:
    """Ridge regression with its penalty chosen: 2 M N D + 2 M N n + 9 n^3 + 2 M N C, n = min(M, N).

    Features, the smaller Gram matrix, its eigenvalues and eigenvectors (about 9 n^3: Golub and Van Loan,
    Matrix computations, section 8.3), and the right-hand sides.
    """
    least = min(points, nodes)
    return 2.0 * points * nodes * (dim + least + outputs) + 9.0 * least**3


def smoothing_flops(points: int, outputs: int, state: MPSState) -> float:
    """Two a multiply-add of `smoothing_cost` for `points` distinct points, at the bond that came out."""
    kept = max(len(support) for support in state.supports)
    bond = max(state.bond_dimensions)
    if isinstance(state, SmoothedState) and state.sketch_bond:
        bond = state.sketch_bond
    return 2.0 * smoothing_cost(points, state.dim, outputs, bond, kept=kept, dtype="float64").products


def drawing_flops(nodes: int, harmonics: int, state: MPSState) -> float:
    """2 n D chi^2 (k + h): n nodes drawn from a matrix product state of bond chi.

    A draw contracts a vector with the k kept frequencies of each of the D cores; then the profile of its
    weights over b needs f^ at the h harmonics of the ridgelet.
    """
    kept = max(len(support) for support in state.supports)
    return 2.0 * nodes * state.dim * max(state.bond_dimensions) ** 2 * (kept + harmonics)


def leverage_flops(points: int, dim: int, pool: int, ridges: int) -> float:
    """2 M p D + 2 M^2 p + r (M^3 / 3 + M^2 p): scores of a pool of p candidates at r penalties.

    Features and their Gram matrix once; for each penalty a Cholesky factor and a triangular solve.
    """
    once = 2.0 * points * pool * (dim + points)
    return once + ridges * (points**3 / 3 + points**2 * pool)
