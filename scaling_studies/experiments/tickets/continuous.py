"""Tempered residual nodes with real frequencies: the same rounds, without a grid, by Metropolis."""

import numpy as np

from qrt_tn.engine.compiled import compiled
from qrt_tn.models import fit_output_weights
from qrt_tn.models.residual import round_sizes

SWEEPS = 3  # as many as the estimators take of Gibbs sweeps, the first likewise at a quarter of beta
SUBSAMPLE = 4096  # points that a round looks at, as many as theirs
_KEPT = 0.5  # of a coordinate, in a proposal
_RIDGE = 1.0  # between rounds


def tempered_cosines(
    x: np.ndarray, targets: np.ndarray, n: int, width: float, beta: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes cos(u.x + phase) with u ~ |z_g(u)|^(2 beta) N(u; 0, width^2 I), drawn from residuals in rounds.

    z_g(u) = sum_m (R_m.g) e^(-i u.x_m) with R the residual of ridge regression on the nodes of earlier rounds
    and g ~ N(0, I) one contrast a node; the phase is that of z. A sweep proposes each coordinate once, which
    visits the data once, as a Gibbs sweep on the grid does. The proposal u_i' = u_i / 2 + sqrt(3/4) N(0,
    width^2) leaves the prior as it is, so that |z'/z|^(2 beta) decides.

    Args:
        x: standardised points, (M, D).
        targets: (M, C).
        n: the number of nodes N.
        width: of the prior.
        beta: the inverse temperature.
        rng: draws everything.

    Returns:
        u, shape (D, N), and phases, shape (N,).
    """
    centred = targets - targets.mean(axis=0)
    residual, phi = centred, np.empty((len(x), 0), dtype=np.float32)
    weights, phases = np.empty((x.shape[1], 0)), np.empty(0)
    sizes = round_sizes()
    while len(phases) < n:
        size = min(next(sizes), n - len(phases))
        rows = np.arange(len(x))
        if len(x) > SUBSAMPLE:
            rows = rng.choice(len(x), SUBSAMPLE, replace=False)
        left = residual[rows] - residual[rows].mean(axis=0)
        coefficients = rng.standard_normal((size, targets.shape[1])) @ left.T
        u, phase = _round(x[rows], coefficients, width, beta, rng)
        weights, phases = np.hstack([weights, u]), np.concatenate([phases, phase])
        if len(phases) < n:
            phi = np.hstack([phi, np.cos(x @ u + phase, dtype=np.float32)])
            kernel, bias = fit_output_weights(phi, centred, _RIDGE)
            residual = centred - phi @ kernel - bias
    return weights, phases


def _round(
    x: np.ndarray, coefficients: np.ndarray, width: float, beta: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (D, n) and phases (n,) of nodes that look at one residual, (n, M)."""
    size, dim = len(coefficients), x.shape[1]
    u = rng.normal(0, width, (size, dim))
    terms = (coefficients * np.exp(-1j * (u @ x.T))).astype(np.complex64)
    columns = np.ascontiguousarray(x.T, dtype=np.float32)
    for sweep in range(SWEEPS):
        steps = np.sqrt(1 - _KEPT**2) * rng.normal(0, width, (size, dim))
        order, thresholds = rng.permutation(dim), rng.exponential(size=(size, dim))
        now = max(1.0, beta / 4) if sweep == 0 else beta
        _sweep(columns, order, steps, thresholds, now, u, terms, _KEPT)
    return u.T, np.angle(terms.sum(axis=1, dtype=np.complex128))


@compiled
def _sweep(columns, order, steps, thresholds, beta, u, terms, kept):  # type: ignore[no-untyped-def]
    for chain in range(len(u)):
        own = terms[chain]
        tried = np.empty_like(own)
        size = abs(own.sum()) ** 2
        for i in order:
            new = kept * u[chain, i] + steps[chain, i]
            step = np.float32(u[chain, i] - new)
            column = columns[i]
            real = 0.0
            imaginary = 0.0
            for m in range(len(own)):
                angle = step * column[m]
                cosine, sine = np.cos(angle), np.sin(angle)
                a = own[m].real * cosine - own[m].imag * sine
                b = own[m].real * sine + own[m].imag * cosine
                tried[m] = complex(a, b)
                real += a
                imaginary += b
            found = real * real + imaginary * imaginary
            # accepted with probability (found / size)^beta
            if size == 0 or (found > 0 and beta * np.log(found / size) > -thresholds[chain, i]):
                own[:] = tried
                size = found
                u[chain, i] = new
