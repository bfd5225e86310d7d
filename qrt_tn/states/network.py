"""States given as any tensor network: trees, grids, chains with long-range bonds, circuits of qudit gates."""

import copy
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.arguments import refuse_partial
from qrt_tn.engine.backends import array_module, namespace, resolve, to_host
from qrt_tn.engine.conditionals import Sampler, reroot, restrict
from qrt_tn.engine.indexed import IndexedContraction
from qrt_tn.engine.network import common_dtype, exponent_of, read_structure
from qrt_tn.engine.planning import plan
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.tree import linear_path
from qrt_tn.field import check_prime, fourier, fourier_matrix
from qrt_tn.states.base import CLASS_INDEX, Cost, State, near_one, site_index

Inds = tuple[Hashable, ...]
_COMPLEX = 4  # real multiply-adds of a complex one
_CHANGE = 30.0  # roots of the machine epsilon by which entries change where a norm is tested


class NetworkState(State):
    """A state whose f is a tensor network; `from_network` checks one and makes it.

    The Fourier matrix is applied to the tensor that has a site's index; where several have it, it becomes a
    tensor of its own. Amplitudes are contracted with u fixed; samples are drawn from the closed network
    <f^|f^>, in which both halves share every u_i (`qrt_tn.engine.conditionals`).

    Args:
        terms: the indices of every tensor.
        arrays: the tensors of f, all of one floating dtype.
        sites: the index of every site, all of extent P.
        class_index: the index that carries a class, or None.
        log_factor: log of what multiplies the network.
        memory_limit: bytes that contracting <f|f> may take; left out, what is free.

    Attributes:
        sampler: draws u; its messages gave the norm.

    Raises:
        ValueError: the state is zero, or rounding leaves fewer than about three digits of its norm.
    """

    def __init__(
        self,
        terms: Sequence[Inds],
        arrays: Sequence[Any],
        sites: Sequence[str],
        class_index: str | None = None,
        *,
        log_factor: float = 0.0,
        memory_limit: int | None = None,
    ) -> None:
        self._terms = list(terms)
        self._sites, self._class = tuple(sites), class_index
        self._shared = frozenset(sites) if class_index is None else frozenset((*sites, class_index))
        self._backend = "numpy" if array_module(arrays[0]) is np else "cupy"
        # every tensor at a scale near 1, so that single precision holds products of them
        self._arrays, logs = zip(*map(near_one, arrays), strict=True)
        extents = _extents(self._terms, self._arrays)
        self.modulus, self.dim = extents[sites[0]], len(sites)
        self.vector = class_index is not None
        self.outputs = 1 if class_index is None else extents[class_index]
        self._ket_terms, self._ket = self._spectral(self._arrays)
        self._bra_terms = [tuple(self._bra(index) for index in term) for term in self._ket_terms]
        closed = [*self._ket_terms, *self._bra_terms]
        self._sizes = _extents(closed, self._ket + self._ket)
        found = plan((closed, (), self._sizes), dtype=self._ket[0].dtype)
        self.sampler = Sampler(
            closed, self._sizes, _squared(self._ket), self._sites, path=found.path, memory_limit=memory_limit
        )
        # a norm that cancels changes where its terms change by far more than they are rounded by
        rng = np.random.default_rng(0)
        changed = [_changed(*pair, rng) for pair in zip(arrays, self._arrays, strict=True)]
        beside = found.execute(_squared(self._spectral(changed)[1]), self._backend).log_abs()
        log_square, dtype = self.sampler.log_total, self._ket[0].dtype
        allowed = math.log(2) + 8 * _CHANGE * math.sqrt(np.finfo(dtype).eps * len(terms))
        if not abs(float(beside) - log_square) < allowed:
            raise ValueError(
                f"the state is zero everywhere, or rounding to {dtype} leaves fewer than three digits of its "
                "norm, as it cancels or a tensor has entries too far apart in size; give a network without "
                "such cancellation, or double precision"
            )
        self._log_scale = log_square / 2  # of the tensors at their scale near 1
        self.log_norm = self._log_scale + math.fsum(logs) + log_factor
        self._amplitudes: IndexedContraction | None = None
        self._marginals: tuple[tuple[int, ...], IndexedContraction] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_amplitudes": None, "_marginals": None}  # made again when asked for

    def to(self, backend: str) -> "NetworkState":
        """A copy whose arrays live on a backend; it contracts amplitudes, samples are drawn on its device."""
        name = resolve(backend)
        if name == self._backend:
            return self
        xp = namespace(name)
        moved = copy.copy(self)
        moved._backend = name
        if array_module(self._ket[0]) is not xp:
            moved._ket = [xp.asarray(to_host(array)) for array in self._ket]
            moved.sampler = self.sampler.to("numpy" if xp is np else "cupy")
        moved._amplitudes = None if self._amplitudes is None else self._amplitudes.to(name)
        moved._marginals = None
        return moved

    @property
    def bond_dimensions(self) -> list[int]:
        """The extents of the indices inside."""
        inner = [index for term in self._terms for index in term if index not in self._shared]
        return [self._sizes[index] for index in dict.fromkeys(inner)]

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors, given and transformed, and of the messages."""
        ours = sum(array.nbytes for array in [*self._arrays, *self._ket])
        return ours + self.sampler.held_bytes

    def arrays(self) -> list[Any]:
        """The tensors of f^, and their indices and the sites' by number."""
        numbers: dict[Hashable, int] = {}
        terms = [*self._ket_terms, self._sites, () if self._class is None else (self._class,)]
        named = [[numbers.setdefault(index, len(numbers)) for index in term] for term in terms]
        return [*self._ket, *(np.array(term, dtype=np.int64) for term in named)]

    def network(self) -> qtn.TensorNetwork:
        """The given tensors, normalised, in double precision; outer indices x0 .. x{D-1}, c, inner k0, ..."""
        outer = {site: site_index(place) for place, site in enumerate(self._sites)}
        if self._class is not None:
            outer[self._class] = CLASS_INDEX
        holders = Counter(index for term in self._terms for index in term)
        names: dict[Hashable, str] = {index: name for index, name in outer.items() if holders[index] == 1}
        for index in holders:
            names.setdefault(index, f"k{len(names)}")
        # shared out, since the norm of the whole may lie far outside floating point
        share = math.exp(-self._log_scale / len(self._arrays))
        # in double precision, as the gates of a circuit are
        dtype = np.result_type(self._arrays[0].dtype, np.float64)
        tensors = [
            qtn.Tensor(to_host(array).astype(dtype) * share, [names[index] for index in term], tags=["F"])
            for term, array in zip(self._terms, self._arrays, strict=True)
        ]
        # an outer index is on one tensor: where several share it, a diagonal tensor brings it out
        several = [
            (np.eye(self._sizes[i], dtype=dtype), [names[i], outer[i]]) for i in outer if holders[i] > 1
        ]
        return qtn.TensorNetwork([*tensors, *(qtn.Tensor(*pair, tags=["F"]) for pair in several)])

    def _spectral(self, arrays: Sequence[Any]) -> tuple[list[Inds], list[Any]]:
        """The tensors of f^, complex: (their indices, arrays)."""
        xp = array_module(arrays[0])
        dtype = np.result_type(arrays[0].dtype, np.complex64)
        holders = Counter(index for term in self._terms for index in term)
        alone = {site for site in self._sites if holders[site] == 1}
        # a site on several tensors: they share x_i, which a Fourier matrix of its own sums over
        several: dict[Hashable, Inds] = {site: ("x", site) for site in self._sites if site not in alone}
        terms: list[Inds] = [tuple(several.get(index, index) for index in term) for term in self._terms]
        made = []
        for term, array in zip(terms, arrays, strict=True):
            spectral = array.astype(dtype)
            for axis in [axis for axis, index in enumerate(term) if index in alone]:
                spectral = fourier(spectral, axis=axis)
            made.append(spectral)
        terms += several.items()
        made += [xp.asarray(fourier_matrix(self.modulus).astype(dtype)) for _ in several]
        return terms, made

    def _bra(self, index: Hashable) -> Hashable:
        """The index in the conjugate of f^; sites and class are shared by both halves of <f^|f^>."""
        return index if index in self._shared else ("bra", index)

    def _picked(self) -> IndexedContraction:
        """The contraction that gives amplitudes, made when they are first asked for: its path is searched."""
        if self._amplitudes is None:
            output = () if self._class is None else (self._class,)
            # the tree of <f^|f^>, as far as it is f^'s
            kept = len(self._ket)
            pairs = restrict(self._pairs(), 2 * kept, kept)
            self._amplitudes = IndexedContraction(
                self._ket_terms,
                output,
                self._sizes,
                self._ket,
                self._sites,
                path=linear_path(pairs, kept) or [(0,)],
                backend=self._backend,
            )
        return self._amplitudes

    def _spectrum(self, u: np.ndarray) -> Scaled:
        values = self._picked()(u)
        mantissa = values.mantissa.reshape(len(u), self.outputs)
        return Scaled(mantissa, values.log_scale.reshape(len(u), -1) - self._log_scale)

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.sampler.sample(count, rng)[0]

    def _pairs(self) -> list[tuple[int, int]]:
        return [(pair.left, pair.right) for pair in self.sampler.tree.pairs]

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        key = tuple(coordinates.tolist())
        if len(key) == 1:
            with np.errstate(divide="ignore"):
                return np.log(self.sampler.marginals()[key[0]])[u[:, 0]]
        if self._marginals is None or self._marginals[0] != key:
            # rooted beside a tensor that is picked, the tree has most of what is not picked below that
            count = 2 * len(self._ket)
            leaf = next(place for place, term in enumerate(self._ket_terms) if self._sites[key[0]] in term)
            path = linear_path(reroot(self._pairs(), count, leaf), count)
            picked = IndexedContraction(
                [*self._ket_terms, *self._bra_terms],
                (),
                self._sizes,
                _squared(self._ket),
                [self._sites[coordinate] for coordinate in key],
                path=path,
                backend=self._backend,
            )
            self._marginals = key, picked
        rows, place = np.unique(u, axis=0, return_inverse=True)  # few coordinates have few values
        values = self._marginals[1](rows)
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(values.mantissa.real, 0).astype(np.float64))
        return (logs + values.log_scale - 2 * self._log_scale)[place]

    def _drawing(self, count: int, n_harmonics: int) -> Cost:
        drawn = self.sampler.needs(count)
        picked = self._picked()
        elements = count * n_harmonics
        products = drawn.multiply_adds + picked.multiply_adds(elements)
        # gathered and contracted in small steps, which read, write and scale their results (measured)
        moved = drawn.moved + 16.0 * elements * picked.gathered_bytes
        results = 8.0 * count * (self.dim + 2) + 16.0 * elements * self.outputs
        _, recipe = picked.fitted(elements)
        memory = max(drawn.memory, results + recipe.peak_bytes)
        return Cost(_COMPLEX * products, moved, memory, self._ket[0].dtype.name)


def _extents(terms: Sequence[Inds], arrays: Sequence[Any]) -> dict[Hashable, int]:
    pairs = zip(terms, arrays, strict=True)
    return {index: extent for term, array in pairs for index, extent in zip(term, array.shape, strict=True)}


def _squared(ket: Sequence[Any]) -> list[Any]:
    """The arrays of <f^|f^>."""
    return [*ket, *(array.conj() for array in ket)]


def _changed(given: Any, array: Any, rng: np.random.Generator) -> Any:
    """`given` at a scale near 1, `array`, changed at random; what is too small to square is raised."""
    xp = array_module(array)
    limits = np.finfo(array.dtype)
    least = array.dtype.type(math.sqrt(limits.tiny))
    raised = xp.where((given != 0) & (xp.abs(array) < least), least, array)
    noise = 1 + _CHANGE * math.sqrt(limits.eps) * rng.standard_normal(array.shape)
    return raised * xp.asarray(noise.astype(limits.dtype))


def from_network(
    network: qtn.TensorNetwork,
    site_inds: Sequence[str],
    *,
    class_index: str | None = None,
    memory_limit: int | None = None,
) -> NetworkState:
    """The state f(x) = the network's value at x, whatever its shape.

    Args:
        network: a quimb network, such as `Circuit(...).psi`; single or double precision, which the state
            keeps, real or complex. Indices inside may be on any number of tensors; its `exponent` counts.
        site_inds: the D indices of x, in order, all of extent P; an index may be on any number of tensors.
        class_index: the index of a vector output.
        memory_limit: bytes that contracting <f|f> may take; left out, what is free.

    Raises:
        ValueError: no network, unknown, repeated or missing indices, extents that differ or are composite,
            NaN, mixed precisions, a contraction that does not fit in memory, or a state that is zero or
            cancels so far that fewer than three digits of its norm are left.

    Example:
        >>> import quimb.tensor as qtn
        >>> from qrt_tn import states
        >>> ghz = qtn.TensorNetwork([qtn.COPY_tensor(3, ["x", "y", "z"])])  # 1 where x = y = z
        >>> state = states.from_network(ghz, ["x", "y", "z"])
        >>> (state.sample_spectrum(100).sum(axis=1) % 3).any()  # u + v + w = 0 mod 3
        np.False_
    """
    if isinstance(network, qtn.Tensor):
        network = qtn.TensorNetwork([network])
    if not isinstance(network, qtn.TensorNetwork):
        raise ValueError(f"network is a {type(network).__name__}; give a quimb TensorNetwork")
    if not isinstance(site_inds, Iterable):
        raise ValueError(f"site_inds is {site_inds!r}; name the index of every site, in order")
    terms, _, sizes = read_structure(network, output_inds=())
    sites = [site_inds] if isinstance(site_inds, str) else list(site_inds)
    _check_indices(terms, sizes, sites, class_index)
    xp = array_module(network.tensors[0].data)
    for number, tensor in enumerate(network.tensors):
        refuse_partial(tensor.data, f"tensor {number}")
    arrays = [xp.asarray(tensor.data) for tensor in network.tensors]
    dtype = common_dtype([array.dtype for array in arrays])
    for term, array in zip(terms, arrays, strict=True):
        if not bool(xp.isfinite(array).all()):
            raise ValueError(f"the tensor with indices {term} holds a NaN or an infinity")
    copies = [array.astype(dtype) for array in arrays]
    log_factor = exponent_of(network)
    return NetworkState(terms, copies, sites, class_index, log_factor=log_factor, memory_limit=memory_limit)


def _check_indices(
    terms: Sequence[Inds], sizes: dict[Any, int], sites: list[str], class_index: str | None
) -> None:
    holders = Counter(index for term in terms for index in term)
    outer = [index for index, count in holders.items() if count == 1]
    if not sites:
        raise ValueError(f"site_inds is empty; name the index of every site, such as {outer[:3]}")
    named = Counter([*sites, *([] if class_index is None else [class_index])])
    for index in named:
        if index not in holders:
            raise ValueError(f"index {index!r} is on no tensor; the network's outer indices are {outer}")
        if named[index] > 1:
            raise ValueError(f"index {index!r} is named twice; each site and the class have one each")
    extra = [index for index in outer if index not in named]
    if extra:
        raise ValueError(
            f"outer indices {extra} are neither sites nor the class; name them in site_inds, or sum them"
        )
    modulus = check_prime(sizes[sites[0]])
    for site in sites:
        if sizes[site] != modulus:
            raise ValueError(
                f"site index {site!r} has extent {sizes[site]}, {sites[0]!r} has {modulus}; all must be P"
            )
