"""Contraction plans: a path and its slices, with the cost known before anything is computed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.cost import Cost, cost_of, predicted_seconds, program_slices
from qrt_tn.engine.files import atomic_path
from qrt_tn.engine.network import DTYPES, Index, Term, batch_indices, common_dtype, read_structure
from qrt_tn.engine.paths import check_path
from qrt_tn.engine.program import Program, compile_program
from qrt_tn.engine.progress import Progress
from qrt_tn.engine.roofline import Device
from qrt_tn.engine.roofline import device as find_device
from qrt_tn.engine.scaled import Scaled

if TYPE_CHECKING:
    from qrt_tn.engine.expression import Expression

FORMAT = "qrt-tn.plan"
VERSION = 2


@dataclass(frozen=True, repr=False)
class Plan:
    """How to contract one network shape, as often as you like.

    Attributes:
        inputs: the indices of every tensor, one per axis.
        output: the indices of the result, in order.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed and looped over to save memory; each runs over its whole extent.
        dtype: the numbers that `peak_bytes` and predictions are for.
        batch: the output indices whose elements have a log-scale each; left out, those on two or
            more tensors.

    Raises:
        ValueError: an index without a size, an output index on no tensor, a path that does not fit the
            tensors, slices or a batch that name an unknown index, or an unknown dtype.
    """

    inputs: tuple[Term, ...]
    output: Term
    sizes: Mapping[Index, int]
    path: tuple[tuple[int, ...], ...]
    slices: Term = ()
    dtype: str = "complex128"
    batch: Term = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        structure = read_structure((self.inputs, self.output, self.sizes))
        for name, value in zip(("inputs", "output", "sizes"), structure, strict=True):
            object.__setattr__(self, name, value)
        check_path(self.path, len(self.inputs))
        for index in self.slices:
            if index not in self.sizes or self.slices.count(index) > 1:
                raise ValueError(
                    f"slices {self.slices} name {index!r} twice, or no tensor of the network does"
                )
        if self.batch is None:
            object.__setattr__(self, "batch", batch_indices(self.inputs, self.output))
        for index in self.batch:
            if index not in self.output:
                raise ValueError(f"batch index {index!r} is not in the output {self.output}")
        # in the output's order, which is that of its log-scales
        object.__setattr__(self, "batch", tuple(index for index in self.output if index in self.batch))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")

    @cached_property
    def program(self) -> Program:
        """The steps, with axis orders decided."""
        return compile_program(self.inputs, self.output, self.sizes, self.path, self.slices, self.batch)

    @cached_property
    def _cost(self) -> Cost:
        return cost_of(self.program)

    @property
    def flops(self) -> int:
        """Operations over all slices, as opt_einsum counts them: a multiply and an add are two."""
        return self._cost.flops

    @property
    def largest(self) -> int:
        """Elements of the largest intermediate of one slice."""
        return self._cost.largest

    @property
    def peak_bytes(self) -> int:
        """Bytes held at the worst moment: operands, intermediates of a slice, copies made on the way."""
        return self._cost.peak * np.dtype(self.dtype).itemsize

    @property
    def slice_count(self) -> int:
        """How many slices there are to contract; 1 without slicing."""
        return program_slices(self.program)

    def __hash__(self) -> int:
        # sizes are a dict; equal plans have equal paths
        return hash((self.inputs, self.output, self.path, self.slices, self.dtype))

    def __getstate__(self) -> dict[str, Any]:
        # an expression holds what belongs to this process
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def execute(
        self, arrays: Sequence[Any], backend: str = "auto", *, compute: str | None = None, comm: Any = None
    ) -> Scaled:
        """Contract these arrays.

        Args:
            arrays: one per tensor, with the plan's extents; NumPy or the backend's own. They are cast once to
                the one dtype that holds them all.
            backend: "numpy", "cupy", "cuquantum", or "auto" (CuPy where a GPU answers, else NumPy).
            compute: cuTensorNet's compute type, such as "TF32"; None for the dtype's own.
            comm: an mpi4py communicator, over whose ranks the slices are spread. Every rank calls this and
                gets the result.

        Returns:
            The result with axes `output`, and one log-scale for each element of `batch`.

        Raises:
            ValueError: a wrong number of arrays, a wrong shape, single precision beside double, NaN or
                infinity (on the host), or a backend missing here.
        """
        from qrt_tn.engine.expression import Expression, as_operands  # which imports this file

        arrays = as_operands(arrays)
        self._check(arrays)
        dtype = common_dtype([array.dtype for array in arrays])
        key = (backend, dtype, compute, id(comm))
        held = self.__dict__.get("_expression")
        if held is None or held[0] != key:
            if held is not None:
                held[1].close()
            # one call does not pay for tuning
            held = (key, Expression(self, backend, dtype=dtype, compute=compute, comm=comm, tune=False))
            self.__dict__["_expression"] = held
        return held[1](arrays)

    def expression(
        self,
        backend: str = "auto",
        *,
        constants: Mapping[int, Any] | None = None,
        dtype: str | None = None,
        compute: str | None = None,
        memory_limit: int | None = None,
        comm: Any = None,
    ) -> "Expression":
        """The plan made ready for many calls on one backend.

        Args:
            backend: as `execute`.
            constants: arrays by tensor number that never change; steps among them are done once, here.
            dtype: what operands are cast to; the plan's own by default.
            compute: as `execute`.
            memory_limit: bytes of device memory that cuTensorNet may use.
            comm: as `execute`.

        Raises:
            ValueError: as `execute`.
        """
        from qrt_tn.engine.expression import Expression

        return Expression(
            self,
            backend,
            constants=constants,
            dtype=dtype,
            compute=compute,
            memory_limit=memory_limit,
            comm=comm,
        )

    def execute_many(
        self,
        arrays: Sequence[Any],
        backend: str = "auto",
        *,
        batch: int | None = None,
        memory_limit: int | None = None,
        checkpoint: str | Path | None = None,
        compute: str | None = None,
        comm: Any = None,
        progress: Progress | None = None,
    ) -> Scaled:
        """Contract for many elements: arrays with one more axis in front vary, the others do not.

        Elements are contracted in batches, as one network with a batch index; what depends on constant
        arrays alone is contracted once. While one batch is contracted the next is read (from disk, if an
        array is memory-mapped), cast, and on a GPU copied to the device. The path is the plan's, or a new
        one where that saves operations.

        Args:
            arrays: one per tensor: of the plan's shape, the same for all elements; or of shape (N, *shape),
                one for each. NumPy arrays, memory-mapped ones, or the backend's own.
            backend: as `execute`.
            batch: elements per batch; left out, as many as `memory_limit` takes.
            memory_limit: bytes for one batch, operands included. Left out: 2**30 on a GPU (at most half of
                what is free) or 2**26 on a CPU, since more makes nothing faster, or what one element takes
                if that is more.
            checkpoint: a folder that keeps the results of finished batches; a later call with the same
                network and arrays, in another process too, goes on from there with batches of the same size
                on the same path, and gives the same bits. It is left for you to delete.
            compute: as `execute`.
            comm: an mpi4py communicator: batches are spread over its ranks, and every rank gets all results.
            progress: called with (elements done, N); left out, a bar appears after two seconds in a
                terminal.

        Returns:
            Shape (N, *output), on the host, with one log-scale for each element.

        Raises:
            ValueError: no array that varies, different N, a wrong shape or dtype, a `batch` or limit that is
                no whole number, a limit below one element's need (the message says the least that would do),
                or a checkpoint of another run, or whose batches do not fit in memory any more.
            TypeError: a masked or sparse array, or `comm` is no communicator.
        """
        from qrt_tn.engine.batched import execute_many  # which imports this file

        return execute_many(
            self,
            arrays,
            backend,
            batch=batch,
            memory_limit=memory_limit,
            checkpoint=checkpoint,
            compute=compute,
            comm=comm,
            progress=progress,
        )

    def predict(self, device: str | Path | Device = "numpy") -> float:
        """Seconds that the plan takes on a device, by its roofline.

        Args:
            device: a calibrated device, its name, its file, or a backend for this machine's own, which is
                calibrated if it was not yet. See `qrt_tn.engine.device`.
        """
        return predicted_seconds(self.program, self.dtype, find_device(device))

    def _check(self, arrays: Sequence[Any]) -> None:
        if len(arrays) != len(self.inputs):
            raise ValueError(f"got {len(arrays)} arrays for a plan of {len(self.inputs)} tensors")
        for number, (array, term) in enumerate(zip(arrays, self.inputs, strict=True)):
            wanted = tuple(self.sizes[index] for index in term)
            if np.shape(array) != wanted:
                raise ValueError(f"array {number} has shape {np.shape(array)}; the plan wants {wanted}")

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all; indices must be strings or ints.

        Raises:
            ValueError: an index that JSON cannot hold.
        """
        strange = [index for index in self.sizes if not isinstance(index, str | int)]
        if strange:
            raise ValueError(f"index {strange[0]!r} is neither a string nor an int; rename it before saving")
        body = {
            "inputs": self.inputs,
            "output": self.output,
            "sizes": list(self.sizes.items()),
            "path": self.path,
            "slices": self.slices,
            "dtype": self.dtype,
            "batch": self.batch,
        }
        text = json.dumps(body)
        whole = {"format": FORMAT, "version": VERSION, "checksum": cache.digest(text), "plan": body}
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(whole) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan that `save` wrote, here or on another machine.

        Raises:
            ValueError: no such file, or not a whole plan.
        """
        source = Path(path)
        if not source.is_file():
            raise ValueError(f"no file {source}; give the path of a saved plan")
        try:
            whole = json.loads(source.read_text())
            if whole["format"] != FORMAT or whole["version"] != VERSION:
                raise ValueError(f"its format is {whole['format']!r}, version {whole['version']!r}")
            body = whole["plan"]
            if whole["checksum"] != cache.digest(json.dumps(body)):
                raise ValueError("its checksum does not fit its content")
            return cls(
                body["inputs"],
                body["output"],
                dict(body["sizes"]),
                tuple(map(tuple, body["path"])),
                tuple(body["slices"]),
                body["dtype"],
                tuple(body["batch"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{source} does not hold a whole plan ({str(error)[:120]}); save it again"
            ) from error

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.inputs)} tensors, {self.flops:.3g} flops, {self.slice_count} slices, "
            f"peak {bytes_text(self.peak_bytes)})"
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{index} {self.sizes[index]}" for index in self.output) or "a scalar"
        sliced = ", ".join(f"{index} {self.sizes[index]}" for index in self.slices) or "none"
        rows = [
            ("tensors", f"{len(self.inputs)}, on {len(self.sizes)} indices"),
            ("output", _shortened(sizes)),
            ("batch", ", ".join(map(str, self.batch)) or "none"),
            ("dtype", self.dtype),
            ("flops", f"{self.flops:.4g}"),
            ("slices", f"{self.slice_count} ({_shortened(sliced)})"),
            ("largest intermediate", f"{self.largest:.4g} elements"),
            ("peak memory", bytes_text(self.peak_bytes)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        costly = sorted(self.program.steps, key=lambda step: -step.flops)[:5]
        if costly:
            lines += ["", "costliest steps     batch      rows     inner   columns      flops  repeats"]
            for step in costly:
                dims = "".join(f"{extent:>10.4g}" for extent in step.dims)
                repeats = self.slice_count if step.sliced else 1
                lines.append(f"{f'{step.left} x {step.right}':<15}{dims} {step.flops:>10.3g} {repeats:>8}")
        return "\n".join(lines)


def bytes_text(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
