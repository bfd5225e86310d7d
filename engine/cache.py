"""A store on disk for what is dear to find and cheap to keep: contraction plans, calibrations of devices.

One JSON file an entry, under a hash. Files are renamed into place and carry a checksum of their body, so
that writers may race and be killed at any moment, and a reader sees a whole entry or none. The store never
stands in the way: where the folder cannot be written, nothing is kept and nothing is said.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from qrt_tn.engine.files import atomic_path

FORMAT = "qrt-tn cache"
VERSION = 1
LIMIT = 2000  # files of one kind
STRUCTURE = 1  # raised when what a structure's key covers changes

_KEPT = 0.9  # share of LIMIT that a clearing leaves, so that not every write clears
_STALE = 3600.0  # seconds after which a temporary file is a dead writer's
_KIND = re.compile(r"[a-z][a-z-]*")
_KEY = re.compile(r"[0-9a-f]{64}")


def folder() -> Path | None:
    """The cache folder, or None where caching is off.

    $QRT_TN_CACHE where it is set (empty or "off": no caching), else $XDG_CACHE_HOME/qrt-tn, else
    ~/.cache/qrt-tn. The folder need not exist yet.
    """
    named = os.environ.get("QRT_TN_CACHE")
    if named is not None:
        return None if named.strip().lower() in ("", "off") else Path(named).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the XDG specification: a relative path is to be ignored
        return shared / "qrt-tn"
    try:
        return Path.home() / ".cache" / "qrt-tn"
    except RuntimeError:  # a user without a home
        return None


def read(kind: str, key: str) -> dict[str, Any] | None:
    """The entry's body, or None where there is no whole entry of that kind under that key.

    Args:
        kind: what the entry is, such as "plan".
        key: sha256 in hex, as `structure_key` gives.

    Raises:
        ValueError: a kind or key of another form.
    """
    path = _path(kind, key)
    if path is None:
        return None
    try:
        body = _body(path, kind, key)
    except (OSError, ValueError):
        return None
    with suppress(OSError):  # another user's file, or dropped meanwhile
        os.utime(path)  # used just now: the last to be dropped
    return body


def write(kind: str, key: str, body: Mapping[str, Any]) -> bool:
    """Keep an entry, in place of any that is there; the least recently used ones over `LIMIT` are dropped.

    Args:
        kind: what the entry is.
        key: sha256 in hex.
        body: what JSON can hold, with strings for keys; tuples come back as lists.

    Returns:
        Whether the entry was written: False where caching is off or the folder cannot be written.

    Raises:
        ValueError: a kind or key of another form, or a body that JSON cannot hold.
    """
    path = _path(kind, key)
    if path is None:
        return False
    try:
        text = json.dumps(dict(body), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the body of {kind} {key[:8]} cannot be kept as JSON ({error})") from error
    head = {"format": FORMAT, "version": VERSION, "kind": kind, "key": key, "checksum": digest(text)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(f'{json.dumps(head)[:-1]}, "body": {text}}}\n', encoding="utf-8")
    except (OSError, ValueError):  # atomic_path says ValueError of a folder that went away meanwhile
        return False
    with suppress(OSError):
        _clear(path.parent)
    return True


def entries(kind: str) -> Iterator[dict[str, Any]]:
    """The bodies of all whole entries of a kind, in no order that means anything."""
    where = folder()
    if where is None:
        return
    try:
        paths = sorted((where / _checked(_KIND, kind, "kind")).glob("[0-9a-f]*.json"))
    except OSError:
        return
    for path in paths:
        try:
            yield _body(path, kind, path.stem)
        except (OSError, ValueError):
            continue


def read_file(path: str | Path, kind: str) -> dict[str, Any]:
    """The body of one entry's file, wherever it lies: copied from another machine, say.

    Raises:
        ValueError: no such file, or not a whole entry of that kind.
    """
    source = Path(path)
    try:
        return _body(source, kind)
    except OSError as error:
        raise ValueError(
            f"cannot read {source} ({error.strerror}); give the path of a {kind} file"
        ) from error
    except ValueError as error:
        raise ValueError(f"{source} does not hold a whole {kind} ({error}); copy it again") from error


def structure_key(
    inputs: Sequence[Sequence[Hashable]],
    output: Sequence[Hashable],
    sizes: Mapping[Any, int],
    **settings: Any,
) -> str:
    """The hash of a network's structure and of what its plan depends on besides.

    Indices are numbered by first appearance, so that networks which differ only in what their indices are
    called have one key. The order of tensors, of their axes and of the output counts, and so do the
    extents, the settings and the versions of the path finders.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result.
        sizes: the extent of every index.
        **settings: what else the plan depends on: optimizer, seed, memory limit, dtype. What JSON can hold.

    Returns:
        sha256 in hex.

    Raises:
        ValueError: a setting that JSON cannot hold.
    """
    number: dict[Hashable, int] = {}
    for index in chain(chain.from_iterable(inputs), output):
        number.setdefault(index, len(number))
    body = {
        "structure": STRUCTURE,
        "inputs": [[number[index] for index in term] for term in inputs],
        "output": [number[index] for index in output],
        "sizes": [int(sizes[index]) for index in number],
        "settings": settings,
        "versions": _versions(),
    }
    try:
        return digest(json.dumps(body, sort_keys=True, separators=(",", ":")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings {settings} cannot be hashed ({error}); give what JSON can hold"
        ) from error


def digest(text: str) -> str:
    """The sha256 of a text, in hex: the key of an entry that a text names."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _versions() -> list[str]:
    return [importlib.metadata.version(package) for package in ("opt_einsum", "cotengra", "cotengrust")]


def _checked(form: re.Pattern[str], word: str, name: str) -> str:
    if not isinstance(word, str) or not form.fullmatch(word):
        raise ValueError(f"{name} {word!r} names no cache entry; it must match {form.pattern}")
    return word


def _path(kind: str, key: str) -> Path | None:
    where = folder()
    name = f"{_checked(_KEY, key, 'key')}.json"
    return None if where is None else where / _checked(_KIND, kind, "kind") / name


def _body(path: Path, kind: str, key: str | None = None) -> dict[str, Any]:
    """The body in a file, once everything about it holds; ValueError says what does not."""
    try:
        held = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise ValueError(f"it is no {FORMAT} file")
    if held.get("version") != VERSION:
        raise ValueError(f"it is of version {held.get('version')!r}, not {VERSION}")
    if held.get("kind") != kind or (key is not None and held.get("key") != key):
        raise ValueError(f"it holds {held.get('kind')!r} {str(held.get('key'))[:8]!r}")
    body = held.get("body")
    if not isinstance(body, dict):
        raise ValueError("it has no body")
    # JSON keeps the order of keys and the digits of floats, so the text is what it was
    if held.get("checksum") != digest(json.dumps(body, separators=(",", ":"))):
        raise ValueError("its checksum does not fit its body")
    return body


def _clear(where: Path) -> None:
    """Drop the least recently used entries over `LIMIT` and what dead writers left."""
    with os.scandir(where) as found:
        files = list(found)
    whole = [entry for entry in files if not entry.name.startswith(".")]
    now = time.time()
    for entry in files:
        if entry.name.startswith(".") and now - _time(entry) > _STALE:
            Path(entry.path).unlink(missing_ok=True)
    if len(whole) > LIMIT:
        whole.sort(key=_time)
        for entry in whole[: len(whole) - int(_KEPT * LIMIT)]:
            Path(entry.path).unlink(missing_ok=True)


def _time(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process dropped it meanwhile
        return time.time()
