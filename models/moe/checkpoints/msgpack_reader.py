"""msgpack read header by header from a file in which nothing is believed.

The msgpack library hands over whole objects: an array of 1 GB would stand three times in memory (its buffer,
the extension type's payload, the array) before it is where it belongs. This reader gives lengths first, so
that data is skipped or read straight into its place, and no length is larger than what is left of the file.
"""

import os
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_TEXT = 1024  # bytes; keys and names of dtypes are short

# first byte -> kind and struct's format of what follows it (msgpack's specification)
_NUMBERS = {
    0xCA: ("float", ">f"),
    0xCB: ("float", ">d"),
    0xCC: ("int", ">B"),
    0xCD: ("int", ">H"),
    0xCE: ("int", ">I"),
    0xCF: ("int", ">Q"),
    0xD0: ("int", ">b"),
    0xD1: ("int", ">h"),
    0xD2: ("int", ">i"),
    0xD3: ("int", ">q"),
}
_LENGTHS = {
    0xC4: ("bin", ">B"),
    0xC5: ("bin", ">H"),
    0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"),
    0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"),
    0xDA: ("str", ">H"),
    0xDB: ("str", ">I"),
    0xDC: ("array", ">H"),
    0xDD: ("array", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_CONSTANTS = {0xC0: ("nil", None), 0xC2: ("bool", False), 0xC3: ("bool", True)}
_LEAST = {"array": 1, "map": 2}  # objects that an element of it is, each of at least a byte


class MsgpackReader:
    """A file of msgpack, read from its beginning.

    Every method raises ValueError, naming the file and the byte, where the file ends too early or holds
    something else than was asked for.

    Args:
        file: opened for reading bytes.
        path: its name, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._end = self.size = file.seek(0, 2)
        self._at = file.seek(0)

    @property
    def at(self) -> int:
        """The byte that is read next."""
        return self._at

    def go_to(self, byte: int) -> None:
        """Go to a byte at which this reader has been."""
        self._at = self._file.seek(byte)

    def error(
        self, found: str, mend: str = "the file is damaged or not of this format: get it again"
    ) -> ValueError:
        """The error that says what was found, in which file and where."""
        return ValueError(f"{self._path}: {found} (near byte {self._at} of {self.size}); {mend}")

    def kind(self) -> str:
        """What comes next: nil, bool, int, float, str, bin, array, map or ext."""
        at = self._at
        kind, _ = self._header()
        self.go_to(at)
        return kind

    def code(self) -> int | None:
        """The code of the extension type that comes next; None where something else does."""
        at = self._at
        kind, value = self._header()
        self.go_to(at)
        return value[0] if kind == "ext" else None

    def nil(self) -> None:
        """Read a nil."""
        self._expect("nil")

    def boolean(self) -> bool:
        """Read a bool."""
        return bool(self._expect("bool"))

    def integer(self) -> int:
        """Read an int."""
        return int(self._expect("int"))

    def real(self) -> float:
        """Read a float."""
        return float(self._expect("float"))

    def text(self) -> str:
        """Read a short text."""
        length = self._expect("str")
        if length > LONGEST_TEXT:
            raise self.error(f"a text of {length} bytes")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self.error("a text that is not UTF-8") from error

    def array(self, length: int | None = None) -> int:
        """Read the beginning of an array; return its length, which must be `length` if that is given."""
        found = int(self._expect("array"))
        if length is not None and found != length:
            raise self.error(f"an array of {found} in place of {length} elements")
        return found

    def map(self) -> int:
        """Read the beginning of a map; return how many pairs of a key and a value follow."""
        return int(self._expect("map"))

    @contextmanager
    def binary(self) -> Iterator[int]:
        """Yield the length of a run of bytes that the block must read or skip to its end."""
        length = self._expect("bin")
        with self._within(length):
            yield length

    @contextmanager
    def extension(self, codes: Collection[int]) -> Iterator[int]:
        """Yield the code of an extension type, one of `codes`, whose payload the block must read."""
        code, length = self._expect("ext")
        if code not in codes:
            raise self.error(f"extension type {code} in place of {' or '.join(map(str, codes))}")
        with self._within(length):
            yield code

    def skip(self, length: int) -> None:
        """Go on by so many bytes."""
        self._see_left(length)
        self._at = self._file.seek(length, 1)

    def pass_over(self) -> None:
        """Go past one object, whatever it is."""
        left = 1
        while left:
            kind, value = self._header()
            left += value * _LEAST[kind] - 1 if kind in _LEAST else -1
            if kind in ("str", "bin", "ext"):
                self.skip(value[1] if kind == "ext" else value)

    def read_into(self, target: memoryview) -> None:
        """Fill a buffer of bytes with the bytes that come next."""
        self._see_left(len(target))
        while target:
            count = self._file.readinto(target)  # type: ignore[attr-defined]
            if not count:  # the file was cut while it was read
                raise self.error("the file ends")
            self._at += count
            target = target[count:]

    def finish(self) -> None:
        """See that nothing follows."""
        if self._at != self._end:
            raise self.error(f"{self._end - self._at} bytes that belong to nothing")

    def see_unchanged(self) -> None:
        """See that the file is still the one under its name."""
        then = os.fstat(self._file.fileno())
        try:
            now = self._path.stat()
        except FileNotFoundError:
            now = None
        # the file is open, so no other can have taken its number
        if now is None or (now.st_dev, now.st_ino, now.st_size) != (then.st_dev, then.st_ino, self.size):
            raise self.error("the checkpoint was replaced while it was read", "read it again")

    @contextmanager
    def _within(self, length: int) -> Iterator[None]:
        outer, self._end = self._end, self._at + length
        yield
        self.finish()
        self._end = outer

    def _expect(self, kind: str) -> Any:
        found, value = self._header()
        if found != kind:
            raise self.error(f"{found} in place of {kind}")
        return value

    def _header(self) -> tuple[str, Any]:
        """The kind of an object, and its value, number of elements or length (with its code for ext)."""
        first = self._take(1)[0]
        if first <= 0x7F or first >= 0xE0:
            return "int", first if first <= 0x7F else first - 256
        if first <= 0xBF:
            kind, mask = ("map", 15) if first <= 0x8F else ("array", 15) if first <= 0x9F else ("str", 31)
            return self._sized(kind, first & mask)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            kind, form = _NUMBERS[first]
            return kind, self._number(form)
        if first == 0xC1:
            raise self.error("the byte 0xc1, which msgpack never uses")
        kind, form = _LENGTHS.get(
            first, ("ext", "")
        )  # the others are extension types of 1, 2, 4, 8, 16 bytes
        return self._sized(kind, self._number(form) if form else 1 << (first - 0xD4))

    def _sized(self, kind: str, length: int) -> tuple[str, Any]:
        code = self._number(">b") if kind == "ext" else None
        self._see_left(length * _LEAST.get(kind, 1))
        return kind, length if code is None else (code, length)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, length: int) -> bytes:
        self._see_left(length)
        found = self._file.read(length)
        if len(found) < length:  # the file was cut while it was read
            raise self.error("the file ends")
        self._at += length
        return found

    def _see_left(self, length: int) -> None:
        if length > self._end - self._at:
            raise self.error(f"something that takes {length} bytes where {self._end - self._at} are left")


@contextmanager
def opened(path: Path) -> Iterator[MsgpackReader]:
    """Yield a reader of a file.

    Raises:
        ValueError: no such file, or one that cannot be read; what the reader raises.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(f"no file {path}; give the path of a checkpoint with all its files")
        with path.open("rb") as file:
            yield MsgpackReader(file, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); see to its permissions and its disk") from error
