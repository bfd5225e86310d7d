"""Where a result came from: versions, machine and commit."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from qrt_tn.engine.roofline import processor

PACKAGES = (
    "qrt-tn",
    "numpy",
    "scipy",
    "quimb",
    "cotengra",
    "opt_einsum",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(backend: str) -> dict[str, Any]:
    """Processor, cores this process may use, memory, and the backend that ran."""
    return {**host(), "backend": backend}


def host() -> dict[str, Any]:
    """Processor, cores this process may use, and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
    }


def relative(text: str) -> str:
    """A text without where things lie on this machine: its paths begin at the packages, or at this folder."""
    own = (Path(__file__).resolve().parent.parent, Path.cwd(), Path.home())
    folders = [*sys.path, *map(str, own), sysconfig.get_path("stdlib"), sys.prefix]
    for folder in sorted(folders, key=len, reverse=True):
        if folder.strip("/"):
            text = text.replace(f"{folder.rstrip('/')}/", "")
    return text


def commit() -> str | None:
    """The commit of the source tree, with "+" where it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
