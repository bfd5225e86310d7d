"""A real SLURM cluster of two nodes on this machine, with fake GPUs, as the user who calls.

Everything is in a temporary folder and on ports of its own, so that any number of them may run beside each
other and beside a cluster of the machine's own. Debian's packages are enough; where they are not installed,
`constraints/set-up-slurm` puts them into the environment's folder slurm/.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SYSTEM = ("/usr/sbin", "/sbin", "/usr/local/sbin")
MISSING = (
    "is not installed; apt-get install slurmctld slurmd slurm-client munge, "
    "or constraints/set-up-slurm .venv/slurm"
)
CORES = 2
GPUS = {"n1": ("/dev/null", "/dev/zero"), "n2": ("/dev/full", "/dev/random")}


class Installed:
    """Where SLURM's programs are: on this machine, or unpacked into a folder."""

    def __init__(self):
        self.unpacked = Path(sys.prefix) / "slurm"
        path = os.environ.get("PATH", "") + os.pathsep + os.pathsep.join(SYSTEM)
        self.options = {}
        self.environment = {}
        self.stepd = None
        if any(shutil.which(name, path=path) is None for name in PROGRAMS) and self.unpacked.is_dir():
            libraries = sorted(self.unpacked.glob("usr/lib/*/slurm-wlm"))
            if libraries:
                own = (self.unpacked / "usr/bin", self.unpacked / "usr/sbin")
                path = os.pathsep.join(map(str, own)) + os.pathsep + path
                found = (libraries[0], libraries[0].parent, *self.unpacked.glob("lib/*-linux-*"))
                self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, found))
                self.options["PluginDir"] = str(libraries[0])
                self.stepd = self.unpacked / "usr/sbin/slurmstepd"
        self.environment["PATH"] = path
        self.missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]

    def program(self, name):
        return shutil.which(name, path=self.environment["PATH"])


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """Two nodes, n1 and n2, with two cores and two fake GPUs each."""

    def __init__(self, folder, installed):
        self.folder = folder
        self.installed = installed
        self.environment = installed.environment | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons = {}

    def start(self):
        for name in ("state", "spool-n1", "spool-n2", "log", "run"):
            (self.folder / name).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        ports = free_ports(3)
        user = pwd.getpwuid(os.getuid()).pw_name
        lines = {
            "ClusterName": "local",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            # a requeued job waits as long as its credential is good, which is two minutes by default
            "AuthInfo": f"socket={self.folder}/run/munge.socket,cred_expire=5",
            "SlurmctldPort": ports[0],
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": f"{self.folder}/run/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/run/slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=1,bf_interval=1",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "ReturnToService": 2,
            "MpiDefault": "none",
            "KillWait": 5,
            "SlurmdTimeout": 8,
            "MinJobAge": 300,
            "GresTypes": "gpu",
            # two nodes of two cores, whatever this machine has
            "SlurmdParameters": "config_overrides",
            **self.installed.options,
        }
        text = [f"{name}={value}" for name, value in lines.items()]
        for number, node in enumerate(GPUS):
            text.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1 + number]} "
                f"CPUs={CORES} RealMemory=8000 Gres=gpu:{len(GPUS[node])} State=UNKNOWN"
            )
        text.append("PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1")
        text.append("PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF")
        (self.folder / "slurm.conf").write_text("\n".join(text) + "\n")
        gpus = [f"NodeName={node} Name=gpu File={file}\n" for node, files in GPUS.items() for file in files]
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        run, log = self.folder / "run", self.folder / "log"
        self.daemon(
            "munged",
            [
                *("--foreground", "--force", f"--key-file={self.folder}/munge.key"),
                *(f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"),
                *(f"--log-file={log}/munged.log", f"--seed-file={run}/seed"),
            ],
        )
        self.until((run / "munge.socket").exists, 10, "munged did not start")
        self.daemon("slurmctld", ["-D", "-c"])
        self.start_node("n1")
        self.start_node("n2")
        self.until(
            lambda: self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").split() == ["idle"] * 2,
            20,
            "no idle nodes",
        )

    def daemon(self, name, arguments, key=None):
        with (self.folder / "log" / f"{key or name}.txt").open("ab") as log:
            self.daemons[key or name] = subprocess.Popen(
                [self.installed.program(name), *arguments],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_node(self, node):
        stepd = ["-d", str(self.installed.stepd)] if self.installed.stepd else []
        self.daemon("slurmd", ["-D", "-N", node, *stepd], key=f"slurmd-{node}")

    def lose_node(self, node):
        """What a power cut does to a node: its daemon and all of its jobs' processes are gone at once."""
        daemon = self.daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()
        # slurmstepd, which has no environment of a job, before the job: else it tells that the job has ended
        for pid in self.steps(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.processes(f"SLURMD_NODENAME={node}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, entry=None):
        """Processes of this cluster: those whose environment names its configuration (and an entry)."""
        own = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                entries = path.read_bytes().split(b"\0")
                if own in entries and (entry is None or entry.encode() in entries):
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid not in (os.getpid(), os.getppid())]

    def steps(self, node):
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if "slurmstepd" in Path(f"/proc/{pid}/cmdline").read_text() and any(
                    f"spool-{node}" in str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()
                ):
                    found.append(pid)
        return found

    def stop(self):
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.call("scancel", f"--user={os.getuid()}", patience=5)
        for daemon in reversed(self.daemons.values()):
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait()
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def call(self, *command, patience=60, check=True, cwd=None):
        """What a command prints in the environment of a user of this cluster."""
        done = subprocess.run(
            command,
            check=False,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=patience,
            cwd=cwd,
        )
        if check and done.returncode:
            raise subprocess.SubprocessError(f"{command}: {done.returncode} {done.stdout} {done.stderr}")
        return done.stdout

    def study(self, *arguments, check=True, patience=120, cwd=None):
        """What `qrt-tn study` prints."""
        command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", *map(str, arguments)]
        return self.call(*command, check=check, patience=patience, cwd=cwd)

    def live(self):
        """Tasks that are pending or at work."""
        return self.call("squeue", "-h", "-r", "-o", "%i %T %N").splitlines()

    def until(self, condition, seconds, complaint, every=0.2):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"{complaint}\n{self.told()}")
            time.sleep(every)

    def told(self):
        """The ends of all logs, for a failed test."""
        said = []
        for path in sorted((self.folder / "log").iterdir()):
            said.append(f"--- {path.name}\n" + path.read_text(errors="replace")[-1500:])
        return "\n".join(said)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The cluster; without SLURM, the tests that need it are skipped, and say so."""
    installed = Installed()
    if installed.missing:
        pytest.skip(f"SLURM's {installed.missing[0]} {MISSING}")
    for attempt in range(3):
        # short: munge's socket must fit into 108 characters
        made = Cluster(tmp_path_factory.mktemp("slurm"), installed)
        try:
            made.start()
            break
        except TimeoutError:
            made.stop()
            if attempt == 2:  # a port may have been taken between looking and listening
                raise
        except BaseException:
            made.stop()
            raise
    kept = {name: os.environ.get(name) for name in made.environment}
    os.environ.update(made.environment)
    try:
        yield made
    finally:
        made.stop()
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Study:
    """A study of rehearsals, its store, and what is in it."""

    def __init__(self, folder, cluster, *, numbers, seconds, steps, resources):
        self.cluster = cluster
        self.file = folder / "study of mine.toml"
        # what a shell or sbatch could stumble over
        self.store = folder / "a 'store' of \"mine\""
        needs = {"minutes": 2, "memory": 0.3} | resources
        self.file.write_text(
            f'name = "tried"\nexperiment = "rehearsal"\n\n[fixed]\nseconds = {seconds}\nsteps = {steps}\n\n'
            f"[axes]\nnumber = {list(range(numbers))}\n\n[resources]\n"
            + "".join(f"{name} = {json.dumps(value)}\n" for name, value in needs.items())
        )

    def submit(self, *options):
        return self.cluster.study("submit", self.file, "--store", self.store, *options)

    def jobs(self):
        """Ids of arrays of the latest submission."""
        latest = sorted(self.store.glob("slurm/*/submission.json"))[-1]
        return [one["job"] for one in json.loads(latest.read_text())["sent"]]

    def records(self):
        """All finished points, each file once."""
        return [json.loads(path.read_text()) for path in sorted(self.store.glob("results/*/*.json"))]

    def failures(self):
        return [json.loads(path.read_text()) for path in sorted(self.store.glob("failed/*/*.json"))]

    def steps(self):
        """Steps that unfinished points have kept."""
        return [int(path.read_text()) for path in self.store.glob("work/*/*/kept/step")]

    def printed(self):
        """What the tasks printed."""
        return "\n".join(path.read_text() for path in sorted(self.store.glob("slurm/*/log-*.txt")))

    def ended(self):
        """Whether none of its tasks waits or runs."""
        listed = self.cluster.call("squeue", "-h", "-r", "-o", "%F %t").splitlines()
        return not {line.split()[0] for line in listed} & set(self.jobs())

    def wait(self, seconds):
        self.cluster.until(self.ended, seconds, f"tasks have not ended: {self.printed()}")


@pytest.fixture
def study(cluster, tmp_path):
    """A function that makes a study; what is left of its tasks is cancelled."""
    made = []

    def make(numbers=1, seconds=0.2, steps=1, **resources):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        one = Study(folder, cluster, numbers=numbers, seconds=seconds, steps=steps, resources=resources)
        made.append(one)
        return one

    yield make
    for one in made:
        if one.store.is_dir() and list(one.store.glob("slurm/*")) and not one.ended():
            cluster.call("scancel", *one.jobs())
