"""Contraction plans: a path and its slices, with the cost known before anything is computed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.atomic import atomic_path
from qrt_tn.engine.batches import execute_many
from qrt_tn.engine.cost import predicted_seconds
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.recipe import Recipe
from qrt_tn.engine.roofline import Device
from qrt_tn.engine.roofline import device as find_device
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.structure import common_dtype

FORMAT = "qrt-tn.plan"
VERSION = 1


@dataclass(frozen=True, repr=False)
class Plan(Recipe):
    """How to contract one network shape, as often as you like.

    Attributes:
        inputs: the indices of every tensor, one per axis.
        output: the indices of the result, in order.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed and looped over to save memory; each runs over its whole extent.
        dtype: the numbers that `peak_bytes` and predictions are for.
        merged: indices that count as another because a tensor is diagonal in the two: {"j": "i"}.
        claims: what must hold for that, as (tensor, index, index): the tensor is diagonal in the two.
            Executing checks it.
        batch: the output indices whose elements have a log-scale each; left out, those on two or
            more tensors.

    Raises:
        ValueError: an index without a size, an output index on no tensor, a path that does not fit the
            tensors, slices or a batch that name an unknown index, or an unknown dtype.
    """

    def execute(
        self, arrays: Sequence[Any], backend: str = "auto", *, compute: str | None = None, comm: Any = None
    ) -> Scaled:
        """Contract these arrays.

        Args:
            arrays: one per tensor, with the plan's extents; NumPy or the backend's own. They are cast once to
                the one dtype that holds them all.
            backend: "numpy", "cupy", "jax", "cuquantum", or "auto" (CuPy where a GPU answers, else NumPy).
            compute: cuTensorNet's compute type, such as "TF32"; None for the dtype's own.
            comm: an mpi4py communicator, over whose ranks the slices are spread. Every rank calls this and
                gets the result.

        Returns:
            The result with axes `output`, and one log-scale for each element of `batch`.

        Raises:
            ValueError: a wrong number of arrays, a wrong shape, single precision beside double, NaN or
                infinity (on the host), or a backend missing here.
        """
        self._check(arrays)
        arrays = [array if hasattr(array, "dtype") else np.asarray(array) for array in arrays]
        dtype = common_dtype([array.dtype for array in arrays])
        key = (backend, dtype, compute, id(comm))
        held = self.__dict__.get("_expression")
        if held is None or held[0] != key:
            if held is not None:
                held[1].close()
            held = (key, Expression(self, backend, dtype=dtype, compute=compute, comm=comm))
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
    ) -> Expression:
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
        return Expression(
            self,
            backend,
            constants=constants,
            dtype=dtype,
            compute=compute,
            memory_limit=memory_limit,
            comm=comm,
        )

    execute_many = execute_many

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
            "merged": list(self.merged.items()),
            "claims": self.claims,
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
                dict(body["merged"]),
                tuple(map(tuple, body["claims"])),
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
        if self.merged:
            rows.append(("merged indices", f"{len(self.merged)}, of diagonal tensors"))
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
