"""A study: one TOML file, checked as a whole before anything runs."""

import hashlib
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import Field, ValidationError

from qrt_tn.studies.config.axes import axis_values
from qrt_tn.studies.config.figures import Figure
from qrt_tn.studies.config.messages import Table, checked, unknown
from qrt_tn.studies.config.points import Needs, Point, point_id
from qrt_tn.studies.experiments.catalogue import Experiment, experiment

SHIPPED = Path(__file__).resolve().parent.parent / "studies"
MOST_POINTS = 1_000_000
Axes = list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]


class _Quick(Table):
    """What the quick variant has instead."""

    seeds: int | list[int] | None = None
    fixed: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    zipped: list[dict[str, Any]] | None = None
    resources: dict[str, Any] = Field(default_factory=dict)


class _File(Table):
    """A study file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    title: str = ""
    description: str = ""
    experiment: str
    seeds: int | list[int] = 1
    fixed: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    zipped: list[dict[str, Any]] = Field(default_factory=list)
    resources: dict[str, Any] = Field(default_factory=dict)
    figures: list[dict[str, Any]] = Field(default_factory=list)
    quick: _Quick | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """A checked study.

    Attributes:
        name: of its store.
        title: for people.
        description: for people; may be empty.
        experiment: what each point runs.
        figures: what the report draws.
        points: in the file's order, the last axis fastest, seeds fastest of all.
        varied: the parameters that differ between points, in the file's order.
        text: the file.
        quick: whether this is its quick variant.
        source: the file as it was named: a path, or the name of one that comes with the package.
    """

    name: str
    title: str
    description: str
    experiment: Experiment
    figures: tuple[Figure, ...]
    points: tuple[Point, ...]
    varied: tuple[str, ...]
    text: str
    quick: bool
    source: str

    @cached_property
    def digest(self) -> str:
        """A hash of the file and the variant."""
        return hashlib.blake2b(f"{self.quick}\n{self.text}".encode(), digest_size=10).hexdigest()

    @cached_property
    def by_id(self) -> dict[str, Point]:
        """The points by id."""
        return {point.id: point for point in self.points}

    def needs(self) -> list[Needs]:
        """What points need, each once, in the order in which the points ask for it."""
        return list(dict.fromkeys(point.needs for point in self.points))


def shipped() -> list[str]:
    """The names of the studies that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_study(file: str | Path, *, quick: bool = False) -> Study:
    """Read and check a study file.

    Args:
        file: its path, or the name of a study that comes with the package.
        quick: take its quick variant.

    Raises:
        ValueError: no such file, malformed TOML (with line and column), an unknown key (with the nearest
            known one), a value of another type, an axis without values, or no points; with the mend.
    """
    path = Path(file)
    if not path.is_file() and path.name == str(file) and path.name in shipped():
        path = SHIPPED / f"{path.name}.toml"
    if not path.is_file():
        hint = unknown("study", path.stem, shipped()) if path.name == str(file) else "give a TOML file"
        raise ValueError(f"there is no file {file}; {hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from None
    return parse_study(text, str(file), quick=quick)


def parse_study(text: str, source: str, *, quick: bool = False) -> Study:
    """Check the text of a study file.

    Args:
        text: TOML.
        source: what to call it in messages.
        quick: take its quick variant.

    Raises:
        ValueError: as `load_study`.
    """
    try:
        table = tomllib.loads(text)
        _check_values(table, "")
    except RecursionError:
        raise ValueError(f"{source} nests brackets too deep") from None
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")
        end = f"at end of document, line {len(lines)}, column {len(lines[-1]) + 1}"
        said = str(error).replace("at end of document", end)
        raise ValueError(f"{source} is not TOML: {said}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    try:
        return _study(table, text, quick, source)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _check_values(value: Any, place: str) -> None:
    """Raise ValueError where there is a date, or a number that is not one of 64 bits, as TOML's are."""
    if isinstance(value, dict):
        for name, one in value.items():
            _check_values(one, f"{place}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            _check_values(one, f"{place}[{number}]")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(
            f"{place} is {value!s:.20}..., a whole number of more than 64 bits; give a smaller one"
        )
    elif isinstance(value, date | time):
        raise ValueError(f"{place} is {value}, a date or time; put it into quotes")


def _study(table: Mapping[str, Any], text: str, quick: bool, source: str) -> Study:
    file = checked(_File, table, "")
    kind = experiment(file.experiment)
    if quick and not file.quick:
        raise ValueError("there is no quick variant; add a table [quick], or leave --quick out")
    # both variants are checked whichever runs, so that neither is found broken later
    made = {False: _points(file, kind)}
    if file.quick:
        try:
            made[True] = _points(_quick(file), kind)
        except ValueError as error:
            raise ValueError(f"with [quick], {error}") from None
    figures = []
    for number, one in enumerate(file.figures):
        figure = checked(Figure, one, f"figures[{number}]")
        figure.check_names(kind, f"figures[{number}]")
        figures.append(figure)
    points, varied = made[quick]
    return Study(
        name=f"{file.name}-quick" if quick else file.name,
        title=file.title or file.name,
        description=file.description,
        experiment=kind,
        figures=tuple(figures),
        points=points,
        varied=varied,
        text=text,
        quick=quick,
        source=source,
    )


def _quick(file: _File) -> _File:
    """The file with what its quick variant replaces, name by name."""
    instead = file.quick
    assert instead is not None
    alone = {*instead.fixed, *instead.axes}
    kept = [{k: v for k, v in group.items() if k not in alone} for group in file.zipped]
    zipped = [group for group in kept if group] if instead.zipped is None else instead.zipped
    given = {*instead.fixed, *instead.axes, *(name for group in instead.zipped or [] for name in group)}
    axes = {name: values for name, values in file.axes.items() if name not in given or name in instead.axes}
    return file.model_copy(
        update={
            "seeds": file.seeds if instead.seeds is None else instead.seeds,
            "fixed": {k: v for k, v in file.fixed.items() if k not in given} | instead.fixed,
            "axes": axes | instead.axes,  # in the file's order
            "zipped": zipped,
            "resources": file.resources | instead.resources,
            "quick": None,
        }
    )


def _points(file: _File, kind: Experiment) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """All points, and the names of what varies."""
    axes = _axes(file, kind)
    seeds = _seeds(file.seeds)
    count = len(seeds)
    for _, values in axes:
        count *= len(values)
    if count > MOST_POINTS:
        raise ValueError(f"the study has {count:,} points; at most {MOST_POINTS:,} can be")
    varied = tuple(name for names, _ in axes for name in names)
    points = []
    for combined in itertools.product(*(values for _, values in axes)):
        chosen = dict(file.fixed)
        chosen.update(zip(varied, itertools.chain.from_iterable(combined), strict=True))
        try:
            settings = kind.settings.model_validate(chosen)
        except ValidationError:
            settings = checked(kind.settings, chosen, _at(chosen, varied))
        parameters = settings.model_dump(mode="json")
        needs = _needs(file.resources, parameters)
        for seed in seeds:
            name = point_id(kind.name, kind.revision, parameters, seed)
            points.append(Point(name, parameters, seed, needs))
    if len({point.id for point in points}) < len(points):
        raise ValueError("two points are the same; give each value of an axis once")
    return tuple(points), varied


def _at(chosen: Mapping[str, Any], varied: tuple[str, ...]) -> str:
    """Where a refused combination stands, if more than one axis makes it."""
    said = ", ".join(f"{name}={chosen[name]!r}" for name in varied)
    return f"point ({said})" if said else "fixed"


def _axes(file: _File, kind: Experiment) -> Axes:
    """Names and values of every axis; zipped ones share one entry."""
    fields = kind.settings.model_fields
    groups = [*({name: values} for name, values in file.axes.items()), *file.zipped]
    seen = set(file.fixed)
    for name in file.fixed:
        if name not in fields:
            raise ValueError(f"fixed: {unknown(f'parameter of {kind.name}', name, fields)}")
    axes: Axes = []
    for number, group in enumerate(groups):
        place = "axes" if number < len(file.axes) else f"zipped[{number - len(file.axes)}]"
        columns = []
        for name, given in group.items():
            if name not in fields:
                raise ValueError(f"{place}: {unknown(f'parameter of {kind.name}', name, fields)}")
            if name in seen:
                raise ValueError(f"{place}.{name} is given twice; give it once, in fixed, axes or zipped")
            seen.add(name)
            columns.append(
                _column(f"{place}.{name}", given, _is_whole(fields[name].annotation), place == "axes")
            )
        lengths = {name: len(column) for name, column in zip(group, columns, strict=True)}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ValueError(f"{place}: {said} values; axes that are zipped must be equally long")
        if not lengths:
            raise ValueError(f"{place} names no axes; give some, or leave it out")
        axes.append((tuple(group), list(zip(*columns, strict=True))))
    return axes


def _is_whole(hint: Any) -> bool:
    """Whether a parameter takes whole numbers only (or None)."""
    return set(get_args(hint) or (hint,)) <= {int, NoneType}


def _column(name: str, given: Any, whole: bool, alone: bool) -> list[Any]:
    """The values of one axis; beside others, a value may come again."""
    if alone or not isinstance(given, list):
        return axis_values(name, given, whole=whole)
    if not given:
        raise ValueError(f"{name} has no values, so the study has no points; give at least one")
    return given


def _seeds(given: int | list[int]) -> list[int]:
    if isinstance(given, int) and given > MOST_POINTS:
        raise ValueError(f"seeds is {given:,}; at most {MOST_POINTS:,} can be")
    seeds = list(range(given)) if isinstance(given, int) else given
    if not seeds:
        raise ValueError(f"seeds is {given!r}, so the study has no points; give at least one")
    if min(seeds) < 0:
        raise ValueError(f"seeds holds {min(seeds)}; give whole numbers from 0 on")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {given!r} with one twice; give each once")
    return seeds


def _needs(resources: Mapping[str, Any], parameters: Mapping[str, Any]) -> Needs:
    """The resources of one point; a text stands for the parameter of that name."""
    given = dict(resources)
    for name in ("gpus", "ranks", "cores"):
        if isinstance(value := given.get(name), str):
            if value not in parameters:
                raise ValueError(f"resources.{name}: {unknown('parameter', value, parameters)}")
            given[name] = parameters[value]
    return checked(Needs, given, "resources")
