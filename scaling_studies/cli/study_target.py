"""What a command about a study is given: its file, its name, or its store."""

from pathlib import Path
from typing import Annotated

import typer

from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.config.study import shipped
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.study import HEAD

Target = Annotated[
    str, typer.Argument(help="a TOML file, the name of a study that comes with the package, or a store")
]
Quick = Annotated[bool, typer.Option("--quick", help="the study's quick variant, for two cores")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="folder of the results; left out: runs/<name of the study>")
]


def found(target: str, quick: bool, store: Path | None) -> tuple[Study, Path, Path | None]:
    """A study, the folder of its store, and its file where there is one.

    Raises:
        ValueError: there is no such study, or options that a store leaves no room for.
    """
    folder = Path(target)
    if not folder.exists() and folder.name == target and target not in shipped():
        # a study that was run from a file of this name, say
        folder = Path("runs") / (f"{target}-quick" if quick else target)
        quick = quick and not (folder / HEAD).is_file()
    if (folder / HEAD).is_file() or (folder.is_dir() and target not in shipped()):
        if store is not None or quick:
            raise ValueError(f"{target} is a store, which knows its study; leave --store and --quick out")
        return StudyStore(folder).study(), folder, None
    asked = load_study(target, quick=quick)
    file = Path(target)
    return asked, store or Path("runs") / asked.name, file if file.is_file() else None
