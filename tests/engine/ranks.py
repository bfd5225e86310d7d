"""Ranks that are threads of this process, and the programs that real ranks run."""

import collections
import functools
import pickle
import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

PROGRAMS = Path(__file__).parent / "mpi_programs"


@functools.cache
def together():
    """What the program `together` defines."""
    return SimpleNamespace(**runpy.run_path(str(PROGRAMS / "together.py")))


class Ended(BaseException):
    """The whole job was ended."""


class Threads:
    """A communicator whose ranks are threads of this process."""

    def __init__(self, rank, size, boxes, context=0):
        self.rank, self.size, self.boxes, self.context = rank, size, boxes, context
        self.made = 0
        self.aborted = []

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Idup(self):
        self.made += 1
        return type(self)(self.rank, self.size, self.boxes, self.made), done(True)

    def Free(self):
        mine = [key for key in list(self.boxes) if key[0] == self.context and key[2] == self.rank]
        assert not any(self.boxes[key] for key in mine), "messages nobody took"

    def Abort(self, code):
        self.aborted.append(code)
        raise Ended

    def box(self, source, dest, tag):
        return self.boxes[self.context, source, dest, tag]

    def isend(self, message, dest, tag):
        self.box(self.rank, dest, tag).append(pickle.dumps(message))
        return done(True)

    def Isend(self, buffer, dest, tag):
        box, message = self.box(self.rank, dest, tag), buffer.copy()
        box.append(message)
        # gone once it is taken
        return SimpleNamespace(Test=lambda: not any(item is message for item in list(box)))

    def Iprobe(self, tag, source=None):
        sources = range(self.size) if source is None else [source]
        return any(self.box(source, self.rank, tag) for source in sources)

    def recv(self, source, tag):
        while not self.Iprobe(tag, source):
            time.sleep(1e-4)
        return pickle.loads(self.box(source, self.rank, tag).popleft())

    def Irecv(self, buffer, source, tag):
        def arrived():
            if not self.Iprobe(tag, source):
                return False
            buffer[:] = self.box(source, self.rank, tag).popleft()
            return True

        return SimpleNamespace(Test=arrived)

    def Ibarrier(self):
        self.allgather(None, tag="barrier", receive=False)
        boxes = [self.box(source, self.rank, "barrier") for source in range(self.size)]
        return SimpleNamespace(Test=lambda: all(boxes) and all(box.popleft() for box in boxes))

    def allgather(self, message, tag="allgather", *, receive=True):
        for dest in range(self.size):
            self.isend(message, dest, tag)
        return [self.recv(source, tag) for source in range(self.size)] if receive else None

    def bcast(self, message, root):
        return self.Bcast(message, root, pickled=True)

    def Bcast(self, buffer, root, *, pickled=False):
        if self.rank != root:
            received = self.recv(root, "bcast")
            if not pickled:
                buffer[:] = received
            return received
        for dest in range(self.size):
            if dest != root:
                self.isend(buffer, dest, "bcast")
        return buffer


def done(answer):
    return SimpleNamespace(Test=lambda: answer)


def on_threads(size, function):
    """What the function returns on every rank, or the exception it raises."""
    boxes = collections.defaultdict(collections.deque)

    def outcome(rank):
        try:
            return function(Threads(rank, size, boxes))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(outcome, range(size)))
