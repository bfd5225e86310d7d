"""Progress of what takes longer than two seconds, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]  # (done, of how many)

PATIENCE = 2.0  # seconds before a bar appears


def silent(done: int, total: int) -> None:
    """Draw nothing: of many ranks only one does."""


@contextmanager
def shown(progress: Progress | None, total: int, what: str) -> Iterator[Progress]:
    """Yield a function to call with (done, total).

    Args:
        progress: what to call instead of drawing a bar.
        total: how many there are to do.
        what: what is counted, such as "elements".
    """
    if progress is not None:
        yield progress
        return
    from tqdm.auto import tqdm  # takes a while to import

    # disable=None: no bar where stderr is no terminal
    with tqdm(total=total, unit=f" {what}", delay=PATIENCE, disable=None, leave=False) as bar:
        yield lambda done, of: bar.update(done - bar.n)
