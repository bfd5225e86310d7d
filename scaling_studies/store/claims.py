"""Which runner is at work on which point: a symbolic link each, since making one is exclusive everywhere."""

import time
from collections.abc import Iterable
from pathlib import Path

from qrt_tn.studies.store.runners import Runner, Runners

NOBODY = "nobody"
BURIAL = 30.0  # seconds; it takes milliseconds


class Claims:
    """The claims on the points of one store.

    A claim points at its runner's token. One whose runner is dead is buried, by one runner at a time, and
    then free for all.

    Args:
        folder: of the links; made if it is not there.
        runners: of the same store.
    """

    def __init__(self, folder: Path, runners: Runners) -> None:
        self.folder = folder
        self.runners = runners

    def take(self, point: str, runner: Runner) -> bool:
        """Claim a point for a runner; False where another one lives that has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / point
        while True:
            try:
                path.symlink_to(runner.token)
                return True
            except FileExistsError:
                owner = self._owner(path)
                if owner == runner.token:
                    return True
                if owner is not None:  # else released meanwhile
                    if self._lives(owner, runner):
                        return False
                    self._bury(path, owner)

    def owns(self, point: str, runner: Runner) -> bool:
        """Whether a point is still this runner's."""
        return self._owner(self.folder / point) == runner.token

    def release(self, point: str, runner: Runner) -> None:
        """Give a claim back, if it is still this runner's."""
        path = self.folder / point
        if self._owner(path) == runner.token:
            path.unlink(missing_ok=True)

    def held(self) -> dict[str, str]:
        """Tokens by point, of living and dead runners."""
        found = {}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                owner = self._owner(path)
                if path.name[0] != "." and owner is not None:
                    found[path.name] = owner
        return found

    def running(self) -> dict[str, Runner]:
        """Points that a living runner is at work on."""
        living = {runner.token: runner for runner in self.runners.living()}
        return {point: living[token] for point, token in self.held().items() if token in living}

    def release_dead(self, points: Iterable[str] | None = None, beside: Runner | None = None) -> int:
        """Free the points of dead runners, and forget those runners; returns how many points were freed."""
        wanted = None if points is None else set(points)
        freed = 0
        for point, token in self.held().items():
            # a runner is registered before its first claim, so one that comes now is not taken for dead
            if (wanted is None or point in wanted) and not self._lives(token, beside):
                freed += self._bury(self.folder / point, token)
        if wanted is None:
            for runner in self.runners.all():
                if not self.runners.alive(runner, beside):
                    self.runners.path(runner.token).unlink(missing_ok=True)
        return freed

    def _lives(self, token: str, beside: Runner | None) -> bool:
        runner = self.runners.read(token)
        return runner is not None and self.runners.alive(runner, beside)

    @staticmethod
    def _owner(path: Path) -> str | None:
        """The token of a claim; None where there is none, nobody's where something else has its name."""
        try:
            return str(path.readlink())
        except FileNotFoundError:
            return None
        except OSError:  # a store copied without its links
            return NOBODY

    def _bury(self, path: Path, dead: str) -> bool:
        """Take a dead runner's claim away; False where another runner has done so, or is about to.

        Nobody else removes the claim of a dead runner, so after the look it stays what it is.
        """
        lock = path.with_name(f".{path.name}.burial")
        try:
            lock.symlink_to(dead)
        except FileExistsError:
            if self.runners.age(lock) > BURIAL:
                lock.unlink(missing_ok=True)  # whoever wanted to bury it has died too
            time.sleep(0.01)
            return False
        try:
            if self._owner(path) != dead:
                return False
            path.unlink(missing_ok=True)
            return True
        finally:
            lock.unlink(missing_ok=True)
