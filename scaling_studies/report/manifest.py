"""The manifest.json of a results folder, read back."""

import json
from pathlib import Path
from typing import Any


def read_manifest(path: Path, again: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        again: what to do where it is missing or torn.

    Raises:
        ValueError: no such file, not JSON, or not one object.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; {again}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {again}") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} holds a {type(manifest).__name__}, not one object of settings; {again}")
    return manifest
