"""Which runner is at work on which point: a symbolic link each, since making one is exclusive everywhere."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from scaling_studies.store.runners import Runner, Runners


class Claims:
    """The claims on the points of one store.

    A claim points at its runner's token. One whose runner is dead is taken over. The worst that a race can
    do is that a point runs twice, to the same result.

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
                if owner is None:
                    continue  # released meanwhile
                if owner == runner.token:
                    return True
                if self._lives(owner, runner):
                    return False
                self._bury(path, owner)

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
        living = {runner.token for runner in self.runners.living(beside)}
        wanted = None if points is None else set(points)
        freed = 0
        for point, token in self.held().items():
            if token not in living and (wanted is None or point in wanted):
                self._bury(self.folder / point, token)
                freed += 1
        if wanted is None:
            for runner in self.runners.all():
                if runner.token not in living and not self.runners.alive(runner, beside):
                    self.runners.path(runner.token).unlink(missing_ok=True)
        return freed

    def _lives(self, token: str, beside: Runner) -> bool:
        runner = self.runners.read(token)
        return runner is not None and self.runners.alive(runner, beside)

    @staticmethod
    def _owner(path: Path) -> str | None:
        try:
            return str(path.readlink())
        except OSError:
            return None

    def _bury(self, path: Path, dead: str) -> None:
        """Take a dead runner's claim away; one that somebody else has made meanwhile is put back."""
        aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        owner = self._owner(aside)
        if owner is not None and owner != dead:
            # where a third one has it by now, the second and the third get the same result
            with contextlib.suppress(FileExistsError):
                path.symlink_to(owner)
        aside.unlink(missing_ok=True)
