"""The tree that a checkpoint holds: nested dicts, which keys they may have, and how leaves are numbered.

Leaves are numbered as JAX's tree_flatten numbers those of nested dicts: by sorted keys, None and empty dicts
counting for nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader

MAX_DEPTH = 64
MAX_ENTRIES = 2**20
LONGEST_KEY = 256

Tree = dict[str, Any]


def key_fault(key: Any) -> str | None:
    """What is wrong with a key, or None. Keys become names such as "head/kernel", and parts of paths."""
    if not isinstance(key, str):
        return f"key {key!r} is not a text"
    if not key or len(key) > LONGEST_KEY:
        return f"a key of {len(key)} characters; 1 to {LONGEST_KEY} will do"
    if key in (".", "..") or not key.isprintable() or set(key) & {"/", "\\"}:
        return f"key {key!r} could be a path"
    return None


class TreeReader:
    """Reads nested maps; what their values are is up to the caller.

    Args:
        reader: where from.
        leaf: reads a value that is neither a map nor nil.
        ordered: whether keys must come in sorted order.
    """

    def __init__(self, reader: MsgpackReader, leaf: Callable[[], Any], *, ordered: bool = False) -> None:
        self._reader, self._leaf, self._ordered = reader, leaf, ordered
        self._entries = 0

    def read(self, depth: int = 0) -> Any:
        """Read a value: a dict with keys in sorted order, None, or what `leaf` gives."""
        reader = self._reader
        kind = reader.kind()
        if kind == "nil":
            reader.nil()
            return None
        if kind != "map":
            return self._leaf()
        if depth >= MAX_DEPTH:
            raise reader.error(f"dicts in one another, more than {MAX_DEPTH} deep")
        found: Tree = {}
        last = ""
        for _ in range(reader.map()):
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise reader.error(f"more than {MAX_ENTRIES} entries")
            key = reader.text()
            if fault := key_fault(key):
                raise reader.error(fault)
            if key in found:
                raise reader.error(f"key {key!r} twice")
            if self._ordered and key < last:
                raise reader.error(
                    f"key {key!r} after {last!r}: which leaf has which number is plain only where keys are in"
                    " sorted order, as those of nested dicts are"
                )
            last = key
            found[key] = self.read(depth + 1)
        return dict(sorted(found.items()))


def numbered(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by name, such as "head/kernel", in the order of their numbers."""
    found: dict[str, Any] = {}

    def visit(node: Any, name: str) -> None:
        if isinstance(node, dict):
            for key in sorted(node):
                visit(node[key], f"{name}/{key}" if name else key)
        elif node is not None:
            found[name] = node

    visit(tree, "")
    return found


def renewed(tree: Any, value: Callable[[Any], Any]) -> Any:
    """A tree with other leaves: what `value` gives for each, in the order of their numbers."""
    if isinstance(tree, dict):
        return {key: renewed(tree[key], value) for key in sorted(tree)}
    return None if tree is None else value(tree)


def plain(tree: Any, name: str = "") -> Any:
    """A tree of dicts, as flax's to_state_dict gives it.

    Lists and tuples become dicts with keys "0", "1", ...; named tuples, with the names of their fields.

    Raises:
        ValueError: keys that a checkpoint may not have, or dicts in one another without end.
    """
    if name.count("/") > MAX_DEPTH:
        raise ValueError(f"the tree is more than {MAX_DEPTH} dicts deep; give one that is less nested")
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        tree = tree._asdict()
    elif isinstance(tree, list | tuple):
        tree = {str(place): value for place, value in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return tree
    for key in tree:
        if fault := key_fault(key):
            raise ValueError(f"in {name or 'the tree'}: {fault}; rename it")
    return {key: plain(tree[key], f"{name}/{key}") for key in sorted(tree)}
