"""cuTensorNet as it is called: its handles and networks, and the formats it wants."""

import logging
from collections.abc import Sequence
from typing import Any

from qrt_tn.engine.network import dtype_name, numbered
from qrt_tn.engine.tree import Index, Term

COMPUTE = {"single": ("32F", "TF32", "3XTF32"), "double": ("64F",)}
AUTOTUNE_BEFORE = 2  # the run that autotuning comes before: it pays only for repeated use


def interleaved(operands: Sequence[Any], inputs: Sequence[Term], output: Term) -> list[Any]:
    """Operands and their index labels in turn, then the output's: cuTensorNet's interleaved format.

    Indices are integers: its string equations break at about 5,600 of them.
    """
    names = numbered(inputs)
    arguments: list[Any] = []
    for number, (array, term) in enumerate(zip(operands, inputs, strict=True)):
        if term:
            arguments += [array, [names[index] for index in term]]
        else:
            # the library refuses tensors without indices: a scalar gets one of extent 1, summed
            arguments += [array.reshape(1), [len(names) + number]]
    return [*arguments, [names[index] for index in output]]


def compute_name(dtype: Any, compute: str | None) -> str | None:
    """The compute type of this name, checked against the dtype.

    Raises:
        ValueError: a dtype that is not contracted here, or a compute type that there is not for it.
    """
    dtype = dtype_name(dtype)
    names = COMPUTE["single" if dtype in ("float32", "complex64") else "double"]
    if compute is not None and compute not in names:
        raise ValueError(f"compute is {compute!r}; for {dtype} choose None or one of {', '.join(names)}")
    return compute


class Net:
    """One of cuTensorNet's networks, and how often it ran.

    Attributes:
        room: bytes it may take for workspace, or None.
    """

    def __init__(self, network: Any, room: int | None):
        self.room, self._network, self._runs = room, network, 0

    def run(self, *, release: bool) -> Any:
        """A fresh result; `release` gives the workspace back to CuPy's pool."""
        self._runs += 1
        if self._runs == AUTOTUNE_BEFORE:
            self._network.autotune()
        return self._network.contract(release_workspace=release)

    def free(self) -> None:
        """Give back what the library holds for it."""
        self._network.free()


class Library:
    """Handles of the library, on CuPy's current device, from which networks are made.

    Args:
        dtype: of the operands.
        compute: the compute type's name; None for the dtype's own.
        comm: an mpi4py communicator over whose ranks the library spreads slices by itself; None for none.
    """

    def __init__(self, dtype: Any, compute: str | None, comm: Any = None):
        import cupy
        import cuquantum
        from cuquantum import tensornet
        from cuquantum.bindings import cutensornet as bindings

        self.device = cupy.cuda.Device().id
        self._tensornet, self._bindings = tensornet, bindings
        self._too_small = cuquantum.MemoryLimitExceeded
        name = compute_name(dtype, compute)
        self._compute = name and getattr(cuquantum.ComputeType, f"COMPUTE_{name}")
        self._handles = [bindings.create()]
        if comm is not None:
            # a handle of its own, since it spreads all that has slices and waits for all ranks
            self._handles.append(bindings.create())
            pointer = tensornet.get_mpi_comm_pointer(comm)
            bindings.distributed_reset_configuration(self._handles[-1], *pointer)

    def network(
        self,
        operands: Sequence[Any],
        inputs: Sequence[Term],
        output: Term,
        path: Sequence[tuple[int, int]],
        slices: Sequence[Index],
        room: int | None,
        taken: int,
    ) -> Net:
        """A network bound to these operands, ready to run.

        Args:
            operands: CuPy arrays; every run takes the values they have then.
            inputs: their indices.
            output: the result's.
            path: a linear path of pairs.
            slices: indices that the library loops over one value at a time (a prime extent slices only to 1).
            room: bytes for the workspace; None is the library's default.
            taken: bytes that are taken besides, for the message.

        Raises:
            ValueError: the room is too small.
        """
        options = self._tensornet.NetworkOptions(
            compute_type=self._compute,
            device_id=self.device,
            handle=self._handles[-1 if slices else 0],
            # not the root logger, which a program may have told to time every call
            logger=logging.getLogger(__name__),
            memory_limit="80%" if room is None else room,
            blocking="auto",
        )
        names = numbered(inputs)
        slicing = [(names[index], 1) for index in slices]
        network = self._tensornet.Network(*interleaved(operands, inputs, output), options=options)
        try:
            network.contract_path(optimize={"path": path, "slicing": slicing})
        except self._too_small as error:
            network.free()
            raise ValueError(
                f"memory_limit of {taken + (room or 0)} bytes is too small: operands and results take "
                f"{taken} and cuTensorNet's workspace at least {error.requirement}; give at least "
                f"{taken + error.requirement}"
            ) from error
        except BaseException:
            network.free()
            raise
        return Net(network, room)

    def close(self) -> None:
        """Give the handles back, once all networks are freed."""
        while self._handles:
            self._bindings.destroy(self._handles.pop())
