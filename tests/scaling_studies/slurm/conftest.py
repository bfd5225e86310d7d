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

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
MISSING = (
    "is not installed; apt-get install slurmctld slurmd slurm-client munge, "
    "or constraints/set-up-slurm .venv/slurm"
)
# Two nodes of two cores, whatever this machine has. A requeued job waits as long as its credential is good,
# by default two minutes.
CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
KillWait=5
SlurmdTimeout=8
MinJobAge=300
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=2 RealMemory=8000 Gres=gpu:fake:2 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
GPUS = """
NodeName=n1 Name=gpu Type=fake File=/dev/null
NodeName=n1 Name=gpu Type=fake File=/dev/zero
NodeName=n2 Name=gpu Type=fake File=/dev/full
NodeName=n2 Name=gpu Type=fake File=/dev/random
"""


class Cluster:
    """Two nodes, n1 and n2, with two cores and two fake GPUs each."""

    def __init__(self, folder):
        self.folder = folder
        self.daemons = {}
        self.unpacked = Path(sys.prefix) / "slurm"
        places = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.pathsep.join(places)}
        self.plugins = None
        if self.missing() and (plugins := sorted(self.unpacked.glob("usr/lib/*/slurm-wlm"))):
            self.plugins = plugins[0]
            places[:0] = [f"{self.unpacked}/usr/bin", f"{self.unpacked}/usr/sbin"]
            libraries = (self.plugins, self.plugins.parent, *self.unpacked.glob("lib/*-linux-*"))
            self.environment["PATH"] = os.pathsep.join(places)
            self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))

    def missing(self):
        """Programs that are not installed."""
        return [name for name in PROGRAMS if shutil.which(name, path=self.environment["PATH"]) is None]

    def start(self):
        for name in ("state", "spool-n1", "spool-n2", "log", "run"):
            (self.folder / name).mkdir(parents=True)
        host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
        text = CONFIGURATION.format(host=host, user=user, folder=self.folder, ports=free_ports(3))
        if self.plugins:
            text += f"PluginDir={self.plugins}\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        run, log = self.folder / "run", self.folder / "log"
        paths = {"key-file": f"{self.folder}/munge.key", "socket": f"{run}/munge.socket"}
        paths |= {
            "pid-file": f"{run}/munged.pid",
            "log-file": f"{log}/munged.log",
            "seed-file": f"{run}/seed",
        }
        self.daemon(
            "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in paths.items())
        )
        self.until((run / "munge.socket").exists, 10, "munged did not start")
        self.daemon("slurmctld", "-D", "-c")
        self.start_node("n1")
        self.start_node("n2")
        self.until(self.idle, 20, "no idle nodes")

    def daemon(self, name, *arguments, key=None):
        with (self.folder / "log" / f"{key or name}.txt").open("ab") as log:
            self.daemons[key or name] = subprocess.Popen(
                [shutil.which(name, path=self.environment["PATH"]), *arguments],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_node(self, node):
        stepd = ["-d", f"{self.unpacked}/usr/sbin/slurmstepd"] if self.plugins else []
        self.daemon("slurmd", "-D", "-N", node, *stepd, key=f"slurmd-{node}")

    def lose_node(self, node):
        """What a power cut does to a node: its daemon and all of its jobs' processes are gone at once."""
        daemon = self.daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()
        # slurmstepd before the job: else it tells that the job has ended
        kill(self.steps(node))
        kill(self.processes(f"SLURMD_NODENAME={node}"))

    def processes(self, entry=None):
        """Processes of this cluster: those whose environment names its configuration (and an entry)."""
        wanted = {f"SLURM_CONF={self.folder}/slurm.conf".encode(), *([entry.encode()] if entry else [])}
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted <= set(path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid not in (os.getpid(), os.getppid())]

    def steps(self, node=""):
        """SLURM's own processes of jobs, which have overwritten their environment, by their sockets."""
        place = f"{self.folder}/spool-{node}"
        sockets = psutil.net_connections("unix")
        return sorted({one.pid for one in sockets if one.pid and str(one.laddr).startswith(place)})

    def stop(self):
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.call("scancel", f"--user={os.getuid()}", patience=5)
        for daemon in reversed(self.daemons.values()):
            daemon.kill()
            daemon.wait()
        for _ in range(50):
            if not (left := self.steps() + self.processes()):
                break
            kill(left)
            time.sleep(0.05)

    def call(self, *command, patience=120, cwd=None):
        """What a command prints in the environment of a user of this cluster."""
        environment = os.environ | self.environment
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=patience, cwd=cwd
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{command}: {done.returncode} {done.stdout} {done.stderr}")
        return done.stdout

    def study(self, *arguments):
        """What `qrt-tn study` prints."""
        return self.call(sys.executable, "-m", "qrt_tn.studies.cli", "study", *map(str, arguments))

    def idle(self):
        return self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").split() == ["idle"] * 2

    def tasks(self, job):
        """State and first node of the tasks of a job that are pending or at work."""
        listed = self.call("squeue", "-h", "-r", "-o", "%F %T %B").splitlines()
        return sorted(tuple(line.split()[1:]) for line in listed if line.split()[0] == job)

    def until(self, condition, seconds, complaint):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if condition():
                    return
            if time.monotonic() > end:
                logs = sorted((self.folder / "log").iterdir())
                told = [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
                raise TimeoutError("\n".join([complaint, *told]))
            time.sleep(0.2)


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The cluster; without SLURM, the tests that need it are skipped, and say so."""
    for attempt in range(3):
        # short: munge's socket must fit into 108 characters
        made = Cluster(tmp_path_factory.mktemp("slurm"))
        if missing := made.missing():
            pytest.skip(f"SLURM's {missing[0]} {MISSING}")
        try:
            made.start()
            yield made
            return
        except TimeoutError:
            if attempt == 2:  # a port may have been taken between looking and listening
                raise
        finally:
            made.stop()


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

    @property
    def job(self):
        """The array of the latest submission."""
        latest = sorted(self.store.glob("slurm/*/submission.json"))[-1]
        (sent,) = json.loads(latest.read_text())["sent"]
        return sent["job"]

    def records(self):
        """All finished points, each file once."""
        return [json.loads(path.read_text()) for path in sorted(self.store.glob("results/*/*.json"))]

    def measured(self, name):
        """What all finished points have of a metric."""
        return [record["tables"]["points"][0][name] for record in self.records()]

    def failures(self):
        return [json.loads(path.read_text()) for path in sorted(self.store.glob("failed/*/*.json"))]

    def steps(self):
        """Steps that unfinished points have kept."""
        return [int(path.read_text()) for path in self.store.glob("work/*/*/kept/step")]

    def printed(self, logs="slurm/*/log-*.txt"):
        """What the tasks printed, or with `logs/*/*.log` the points."""
        return "\n".join(path.read_text() for path in sorted(self.store.glob(logs)))

    def ended(self):
        """Whether none of its tasks waits or runs."""
        return not self.cluster.tasks(self.job)

    def wait(self, seconds=120):
        self.cluster.until(self.ended, seconds, f"tasks have not ended: {self.printed()}")


@pytest.fixture(scope="module")
def study(cluster, tmp_path_factory):
    """A function that makes a study; what is left of its tasks is cancelled."""
    made = []

    def make(numbers=1, seconds=0.2, steps=1, **resources):
        folder = tmp_path_factory.mktemp("study")
        one = Study(folder, cluster, numbers=numbers, seconds=seconds, steps=steps, resources=resources)
        made.append(one)
        return one

    yield make
    for one in made:
        if list(one.store.glob("slurm/*")) and not one.ended():
            cluster.call("scancel", one.job)
