"""A cache on disk for results that take long to find: contraction plans, calibrations of devices.

An entry is one JSON file, named by a hash. It is renamed into place and has a checksum, so that writers may
race and be killed at any moment, and a reader sees a whole entry or none. Where the folder cannot be written,
nothing is kept and no error is raised.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from qrt_tn.engine.files import atomic_path
from qrt_tn.engine.network import Index, Term, by_position, numbered

FORMAT = "qrt-tn cache 2"
LIMIT = 2000  # files of one kind; beyond it the least recently used go
STRUCTURE = 2  # raised when what a structure's key covers, or the search, changes

_KEPT = 0.9  # share of LIMIT that is left, so that not every write removes files
_STALE = 3600.0  # seconds after which a temporary file is a dead writer's


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


def digest(text: str) -> str:
    """The sha256 of a text, in hex: the key of an entry that the text names."""
    return hashlib.sha256(text.encode()).hexdigest()


def structure_key(inputs: tuple[Term, ...], output: Term, sizes: Mapping[Index, int], **settings: Any) -> str:
    """The key of what depends on a network's structure, on these settings and on the path finders' versions.

    Indices count by first appearance, not by name; the order of tensors and of axes counts.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result.
        sizes: the extent of every index.
        **settings: what else the entry depends on, as JSON can hold it.
    """
    number = numbered((*inputs, output))
    terms = by_position((*inputs, output), number)
    return digest(json.dumps([terms, [sizes[index] for index in number], settings, _versions(), STRUCTURE]))


@cache
def _versions() -> list[str]:
    import importlib.metadata

    return [importlib.metadata.version(package) for package in ("opt_einsum", "cotengra", "cotengrust")]


def read(kind: str, key: str) -> dict[str, Any] | None:
    """The body of an entry, or None where there is no whole one of this kind under this key.

    Args:
        kind: what the entry is, such as "plan".
        key: as `digest` and `structure_key` give it.
    """
    path = _path(kind, key)
    try:
        body = None if path is None else _body(path, kind, key)
    except (OSError, ValueError):
        return None
    with suppress(OSError):  # another user's file, or removed meanwhile
        os.utime(path or "")  # the least recently used go first
    return body


def write(kind: str, key: str, body: Mapping[str, Any]) -> bool:
    """Keep an entry, in place of any that is there.

    Args:
        kind: what the entry is.
        key: as `digest` and `structure_key` give it.
        body: what JSON can hold, with strings for keys; tuples come back as lists.

    Returns:
        Whether it was written; not where caching is off or the folder cannot be written.

    Raises:
        ValueError: a body that JSON cannot hold.
    """
    path = _path(kind, key)
    if path is None:
        return False
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the body of {kind} {key[:8]} cannot be kept as JSON ({error})") from error
    head = {"format": FORMAT, "kind": kind, "key": key, "checksum": digest(text)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(f'{json.dumps(head)[:-1]}, "body": {text}}}\n', encoding="utf-8")
    except (OSError, ValueError):  # ValueError: the folder was removed meanwhile
        return False
    with suppress(OSError):
        _prune(path.parent)
    return True


def entries(kind: str) -> Iterator[dict[str, Any]]:
    """The bodies of all whole entries of a kind, in no particular order."""
    where = folder()
    for path in [] if where is None else sorted((where / kind).glob("[0-9a-f]*.json")):
        with suppress(OSError, ValueError):
            yield _body(path, kind, path.stem)


def read_file(path: str | Path, kind: str) -> dict[str, Any]:
    """The body of an entry's file anywhere, such as a copy from another machine.

    Raises:
        ValueError: no such file, or not a whole entry of that kind.
    """
    try:
        return _body(Path(path), kind)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give the path of a {kind} file") from error
    except ValueError as error:
        raise ValueError(f"{path} does not hold a whole {kind} ({error}); copy it again") from error


def _path(kind: str, key: str) -> Path | None:
    if not re.fullmatch("[a-z-]+", kind) or not re.fullmatch("[0-9a-f]{64}", str(key)):
        raise ValueError(f"{kind!r}, {key!r} names no cache entry; give a word and a sha256 in hex")
    where = folder()
    return None if where is None else where / kind / f"{key}.json"


def _body(path: Path, kind: str, key: str | None = None) -> dict[str, Any]:
    """The body in a file; ValueError says what is wrong with it."""
    try:
        whole = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(f"it is no {FORMAT!r} file")
    body, found = whole.get("body"), whole.get("key")
    if whole.get("kind") != kind or found != (key or found) or not isinstance(body, dict):
        raise ValueError(f"it holds {whole.get('kind')!r} {str(found)[:8]!r}")
    # JSON keeps the order of keys and the digits of floats, so the text is what it was
    if whole.get("checksum") != digest(json.dumps(body)):
        raise ValueError("its checksum does not fit its body")
    return body


def _prune(where: Path) -> None:
    """Remove the least recently used entries over `LIMIT`, and what dead writers left."""
    ages = []
    for path in where.iterdir():
        with suppress(OSError):  # another process removed it meanwhile
            used = path.stat().st_mtime
            if not path.name.startswith("."):
                ages.append((used, path))
            elif time.time() - used > _STALE:
                path.unlink(missing_ok=True)
    for _, path in sorted(ages)[: len(ages) - int(_KEPT * LIMIT)] if len(ages) > LIMIT else ():
        path.unlink(missing_ok=True)
