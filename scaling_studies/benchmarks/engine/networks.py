"""The networks that the benchmarks plan and contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import opt_einsum as oe
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.circuit import OUTPUT, weight_index
from qrt_tn.engine.network import Index, Term, numbered, read_structure
from qrt_tn.states.base import site_index

BATCH = "z"
Structure = tuple[Sequence[Term], Term, dict[Index, int]]  # inputs, output and sizes


@dataclass(frozen=True)
class Case:
    """One network shape with numbers to fill it.

    Attributes:
        name: what the tables call it.
        inputs: the indices of every tensor.
        output: the indices that are kept.
        sizes: the extent of every index.
        arrays: one per tensor.
        varying: the tensors that change from call to call where the others are constants.
    """

    name: str
    inputs: tuple[Term, ...]
    output: Term
    sizes: dict[Index, int]
    arrays: tuple[np.ndarray, ...]
    varying: tuple[int, ...] = ()

    @property
    def structure(self) -> Structure:
        """(inputs, output, sizes), as `qrt_tn.engine.plan` takes it."""
        return self.inputs, self.output, self.sizes

    @property
    def count(self) -> int:
        """Elements of its batch; 1 without one."""
        return self.sizes.get(BATCH, 1)

    @property
    def dtype(self) -> str:
        """The one dtype of all arrays."""
        return self.arrays[0].dtype.name


def symbols(structure: Structure) -> tuple[list[str], str, dict[str, int]]:
    """The structure with one character an index, as cotengra and opt_einsum take it.

    Args:
        structure: inputs, output and sizes.
    """
    inputs, output, sizes = structure
    names = {index: oe.get_symbol(number) for index, number in numbered(inputs).items()}
    return (
        ["".join(names[index] for index in term) for term in inputs],
        "".join(names[index] for index in output),
        {names[index]: size for index, size in sizes.items()},
    )


def case(
    name: str, network: qtn.TensorNetwork, output: Sequence[str] = (), dtype: str = "complex128"
) -> Case:
    """A quimb network as a case; tensors tagged SELECTOR are those that vary.

    Args:
        name: what the tables call it.
        network: the tensors.
        output: the indices that are kept.
        dtype: what the arrays are cast to.
    """
    inputs, kept, sizes = read_structure(network, output)
    arrays = tuple(np.ascontiguousarray(np.asarray(tensor.data).astype(dtype)) for tensor in network)
    varying = tuple(number for number, tensor in enumerate(network) if "SELECTOR" in tensor.tags)
    return Case(name, inputs, kept, sizes, arrays, varying)


def mps_state(dim: int, modulus: int, bond: int, seed: int = 0) -> qtn.TensorNetwork:
    """The transform of a random matrix product state: `QuantumRidgeletTransform.network`."""
    return _transform(_cores(dim, modulus, bond, seed), modulus)


def tree_state(levels: int, modulus: int, bond: int, seed: int = 0) -> qtn.TensorNetwork:
    """The transform of a random state on a binary tree of 2^levels - 1 sites."""
    count = 2**levels - 1
    edges = [((site - 1) // 2, site) for site in range(1, count)]
    return _graph_state(count, edges, modulus, bond, seed)


def grid_state(rows: int, columns: int, modulus: int, bond: int, seed: int = 0) -> qtn.TensorNetwork:
    """The transform of a random projected entangled pair state on a square grid."""
    return _graph_state(rows * columns, _grid_edges(rows, columns), modulus, bond, seed)


def amplitudes(
    name: str,
    network: qtn.TensorNetwork,
    count: int,
    *,
    opened: int = 0,
    seed: int = 0,
    dtype: str = "complex128",
) -> Case:
    """A batch of amplitudes of a transform: a selector for every component of a and for b.

    Args:
        name: what the tables call it.
        network: a transform, its outer indices a0, a1, ..., b.
        count: how many amplitudes; the batch index is on every selector.
        opened: how many components of a stay open, and b with them, instead of being selected.
        seed: draws which amplitudes.
        dtype: what the arrays are cast to.
    """
    dim = sum(index != OUTPUT for index in network.outer_inds())
    rng = np.random.default_rng(seed)
    modulus = network.ind_size(OUTPUT)
    selected = [weight_index(site) for site in range(opened, dim)]
    free = [weight_index(site) for site in range(opened)]
    (free if opened else selected).append(OUTPUT)
    selectors = [
        qtn.Tensor(np.eye(modulus)[rng.integers(modulus, size=count)], inds=[BATCH, index], tags=["SELECTOR"])
        for index in selected
    ]
    return case(name, qtn.TensorNetwork([network, *selectors]), [BATCH, *free], dtype)


def regular(count: int, degree: int, bond: int, seed: int = 0) -> qtn.TensorNetwork:
    """A random regular network with one tensor a vertex."""
    network = qtn.TN_rand_reg(count, degree, bond, seed=seed, dtype="complex128")
    return _tempered(network)


def circuit(rows: int, columns: int, depth: int, seed: int = 0) -> qtn.TensorNetwork:
    """One amplitude of a random circuit of qubits on a grid.

    A layer turns every qubit at random and joins a quarter of the neighbours by CZ gates, in turn.
    """
    rng = np.random.default_rng(seed)
    # horizontal and vertical edges, each in two sets that share no qubit
    layers: list[list[tuple[int, int]]] = [[], [], [], []]
    for first, second in _grid_edges(rows, columns):
        beside = second == first + 1
        place = first % columns if beside else first // columns
        layers[2 * (not beside) + place % 2].append((first, second))
    made = qtn.Circuit(rows * columns)
    for layer in range(depth):
        for qubit in range(rows * columns):
            made.u3(*rng.uniform(0, 2 * np.pi, 3), qubit, gate_round=layer)
        for pair in layers[layer % 4]:
            made.cz(*pair, gate_round=layer)
    return made.amplitude_tn("0" * (rows * columns), simplify_sequence="", simplify_equalize_norms=False)


def matrix_chain(count: int, extent: int, seed: int = 0) -> Case:
    """A product of small square matrices, whose result stays near 1."""
    rng = np.random.default_rng(seed)
    matrices = tuple(np.linalg.qr(rng.normal(size=(extent, extent)))[0] for _ in range(count))
    inputs = tuple((f"k{place}", f"k{place + 1}") for place in range(count))
    sizes: dict[Index, int] = {f"k{place}": extent for place in range(count + 1)}
    return Case(f"{count} matrices of {extent}", inputs, ("k0", f"k{count}"), sizes, matrices)


def batched_chain(dim: int, bond: int, count: int, dtype: str = "complex64", seed: int = 0) -> Case:
    """A batch of products of matrices along a chain: amplitudes once their sites are selected."""
    rng = np.random.default_rng(seed)
    tensors = []
    for site in range(dim):
        inds = [f"k{site}"] * (site > 0) + [f"k{site + 1}"] * (site < dim - 1)
        parts = rng.normal(size=(2, count, *([bond] * len(inds)))) / np.sqrt(2 * bond)
        tensors.append(qtn.Tensor(parts[0] + 1j * parts[1], inds=[BATCH, *inds]))
    name = f"chain, D={dim}, bond {bond}, batch {count}"
    return case(name, qtn.TensorNetwork(tensors), [BATCH], dtype)


def long_chain(dim: int, modulus: int, bond: int, count: int) -> Structure:
    """The structure alone of a batch of amplitudes over a matrix product state of many sites."""
    inputs: list[Term] = []
    sizes: dict[Index, int] = {BATCH: count, "v": modulus, OUTPUT: modulus}
    for site in range(dim):
        bonds = [f"k{site}"] * (site > 0) + [f"k{site + 1}"] * (site < dim - 1)
        sizes.update(dict.fromkeys(bonds, bond))
        sizes.update({site_index(site): modulus, weight_index(site): modulus})
        inputs.append((site_index(site), *bonds))
        inputs.append(("v", weight_index(site), site_index(site)))
        inputs.append((BATCH, weight_index(site)))
    inputs += [("v", OUTPUT), (BATCH, OUTPUT)]
    return inputs, (BATCH,), sizes


def per_amplitude(found: Case) -> Callable[[int], qtn.TensorNetwork]:
    """The network of one element of a batch, made as a user of quimb would: every selector put in.

    Args:
        found: a case that `amplitudes` made, with nothing left open.

    Returns:
        A function of the element's number; the network that it gives sums over all indices.
    """
    chosen = {found.inputs[number][1]: found.arrays[number].argmax(axis=1) for number in found.varying}
    kept = [
        qtn.Tensor(array, inds=term)
        for number, (term, array) in enumerate(zip(found.inputs, found.arrays, strict=True))
        if number not in found.varying
    ]
    network = qtn.TensorNetwork(kept)
    return lambda element: network.isel({index: int(values[element]) for index, values in chosen.items()})


def elements(found: Case) -> tuple[Case, list[np.ndarray], int]:
    """A batch of amplitudes as one network and arrays for every element: the selectors put in.

    Args:
        found: a case that `amplitudes` made, with nothing left open.

    Returns:
        (the case of one element, its arrays with the batch first where they vary, how many elements).
    """
    chosen = {found.inputs[number][1]: found.arrays[number].argmax(axis=1) for number in found.varying}
    inputs, arrays, single = [], [], []
    for number, (term, array) in enumerate(zip(found.inputs, found.arrays, strict=True)):
        if number in found.varying:
            continue
        held = [index for index in term if index in chosen]
        inputs.append(tuple(index for index in term if index not in chosen))
        if held:
            # each kernel holds one component of a, and the output tensor holds b
            axis = term.index(held[0])
            single.append(np.take(array, 0, axis))
            arrays.append(np.ascontiguousarray(np.moveaxis(np.take(array, chosen[held[0]], axis), axis, 0)))
        else:
            single.append(array)
            arrays.append(array)
    sizes = {index: found.sizes[index] for term in inputs for index in term}
    return Case(found.name, tuple(inputs), (), sizes, tuple(single)), arrays, found.sizes[BATCH]


def _transform(cores: list[np.ndarray], modulus: int) -> qtn.TensorNetwork:
    ridgelet = Ridgelet("triangle", modulus)
    return QuantumRidgeletTransform(states.from_mps(cores), ridgelet, backend="numpy").network()


def _cores(dim: int, modulus: int, bond: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    bonds = [1, *[bond] * (dim - 1), 1]
    return [rng.normal(size=(bonds[site], modulus, bonds[site + 1])) for site in range(dim)]


def _grid_edges(rows: int, columns: int) -> list[tuple[int, int]]:
    """Neighbours on a grid whose sites are numbered row by row."""
    edges = []
    for site in range(rows * columns):
        if site % columns < columns - 1:
            edges.append((site, site + 1))
        if site // columns < rows - 1:
            edges.append((site, site + columns))
    return edges


def _graph_state(
    count: int, edges: list[tuple[int, int]], modulus: int, bond: int, seed: int
) -> qtn.TensorNetwork:
    """The transform of a random state with one site a vertex and one bond an edge."""
    rng = np.random.default_rng(seed)
    # every state meets the same tensors, so those of a product state serve
    whole = _transform([np.ones((1, modulus, 1))] * count, modulus)
    tensors = [tensor for tensor in whole if {"KERNEL", "OUTPUT"} & set(tensor.tags)]
    for site in range(count):
        bonds = [f"e{number}" for number, edge in enumerate(edges) if site in edge]
        values = rng.normal(size=(modulus, *[bond] * len(bonds))) / np.sqrt(
            modulus * bond ** (len(bonds) / 2)
        )
        tensors.append(qtn.Tensor(values, inds=[site_index(site), *bonds]))
    return qtn.TensorNetwork(tensors)


def _tempered(network: qtn.TensorNetwork) -> qtn.TensorNetwork:
    """The same with every tensor's norm set so that the whole contraction is of order one."""
    for tensor in network:
        bonds = float(np.sqrt(np.prod(tensor.shape, dtype=float)))
        tensor.modify(data=tensor.data / np.linalg.norm(tensor.data) * np.sqrt(bonds))
    return network
