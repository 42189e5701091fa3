"""Real clusters on loopback, which tests start, break and mend: Slurm and Ray."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, until

CONFIG = """\
ClusterName=study
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmdTimeout=8
SlurmctldTimeout=8
MessageTimeout=4
KillWait=5
CompleteWait=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=high Nodes=n1,n2 MaxTime=60 PriorityTier=10 PreemptMode=off State=UP
"""


class Slurm:
    """Two nodes of so many CPUs, with a munged; needs root. The partition `high` preempts `low`, the default."""

    nodes = ("n1", "n2")

    def __init__(self, cpus: int = 1) -> None:
        if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
            pytest.skip("Slurm is not installed: Debian's packages are called slurm-wlm and munge")
        if os.geteuid() != 0:
            pytest.skip("two slurmd on one machine start workers as root only")
        self.folder = Path(tempfile.mkdtemp(prefix="study-slurm-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        self.config = self.folder / "slurm.conf"
        ports = [free_port() for _ in range(3)]
        self.config.write_text(CONFIG.format(host=socket.gethostname(), folder=self.folder, ports=ports, cpus=cpus))
        self.environment = {"SLURM_CONF": str(self.config)}
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        try:
            # Debian's /tmp is sticky, which munged takes for writable by everybody.
            files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")]
            self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
        except BaseException:
            self.remove()
            raise

    def start_controller(self) -> None:
        self._start("slurmctld", "-D", "-i")
        until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")

    def kill_controller(self) -> None:
        """It dies, and has written down which tasks run: it does so minutes after their start, or as one changes."""
        saved, before = self.folder / "state" / "job_state", time.time()
        for task in (tasks := self.tasks().values()):
            self.run("scontrol", "update", f"JobId={task}", "Comment=changed")
        until(lambda: not tasks or saved.stat().st_mtime > before, "what Slurm writes down")
        self._kill("slurmctld")

    def start_node(self, node: str) -> None:
        self._start(node, "-D", "-N", node, program="slurmd")
        until(lambda: self.state(node) in ("idle", "mixed", "allocated"), f"node {node}")

    def processes(self, node: str) -> list[int]:
        """Those of the node's steps, and of all that they have started, in this order."""
        return [pid for step in self._started_on(node) for pid in (step, *_below(step))]

    def kill_worker(self, node: str) -> None:
        """The worker dies, and the script that keeps it alive does not."""
        _kill_worker(self.processes(node))

    def kill_node(self, node: str) -> None:
        """The whole machine dies: slurmd, its steps and all that they have started."""
        there = self.processes(node)
        self._kill(node)
        for pid in there:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def state(self, node: str) -> str:
        return self.run("sinfo", "-h", "-n", node, "-o", "%T", "-p", "low").stdout.strip()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)

    def left(self) -> list[str]:
        """State and node of every task that is in the queue."""
        return self._queue("-a", "-o", "%T %N")

    def tasks(self) -> dict[str, str]:
        """The task that runs on each node: 12_1."""
        return dict(line.split() for line in self._queue("-t", "R", "-o", "%N %i"))

    def _queue(self, *options: str) -> list[str]:
        """Its lines, one a task; a controller that has just come back may be late with its first answers."""
        until(lambda: self.run("squeue").returncode == 0, "squeue")
        return self.run("squeue", "-h", "-r", *options).stdout.splitlines()

    def remove(self) -> None:
        if "slurmctld" in self._processes:
            self.run("scancel", "-u", "root")
        for node in self.nodes:
            self.kill_node(node)
        for name in list(self._processes):
            self._kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _started_on(self, node: str) -> list[int]:
        """The slurmstepd processes of a node; what they write to says whose they are."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                files = {os.readlink(each) for each in (process / "fd").iterdir()}
                steps = (process / "comm").read_text().strip() == "slurmstepd"
                if steps and f"{self.folder}/slurmd-{node}.log" in files:
                    found.append(int(process.name))
        return found

    def _start(self, name: str, *arguments: str, program: str = "") -> None:
        command = [shutil.which(program or name) or name, *arguments]
        with (self.folder / f"{name}.out").open("a") as out:
            options: Any = {"env": {**os.environ, **self.environment}, "stdout": out, "stderr": out}
            self._processes[name] = subprocess.Popen(command, start_new_session=True, **options)

    def _kill(self, name: str) -> None:
        if (process := self._processes.pop(name, None)) is not None:
            process.kill()
            process.wait()


def _kill_worker(pids: list[int]) -> None:
    (worker,) = [pid for pid in pids if b"study.run" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(worker, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes that this one has started, and those that they have started."""
    try:
        threads = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(each) for thread in threads for each in thread.read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *_below(child))]


class Ray:
    """A head without processors, and two raylets, r1 and r2, each with one declared GPU and so many `cpus`."""

    nodes = ("r1", "r2")

    def __init__(self, environment: Mapping[str, str], cpus: int = 1) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
        # Several nodes on one machine, no word to anybody of it, and workers that are not behind all else on it.
        ours = {"RAY_ENABLE_MULTIPLE_NODES": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        self._mark = f"study-{os.getpid()}-{time.time_ns()}"
        self._environment = {**environment, **ours, MARK: self._mark}
        self._cpus = cpus
        self.start()

    def start(self) -> None:
        """Start a cluster anew."""
        with self._surroundings():
            from ray.cluster_utils import Cluster

            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        self._raylets: dict[str, Any] = {}
        for name in self.nodes:
            self.start_node(name)

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_ADDRESS": self._cluster.address}

    def start_node(self, name: str) -> None:
        with self._surroundings():
            # What names a node of Slurm's names ours too: all are on one host.
            own = {"num_gpus": 1, "env_vars": {"SLURMD_NODENAME": name}}
            self._raylets[name] = self._cluster.add_node(num_cpus=self._cpus, **own, **SMALL)

    def kill_node(self, name: str) -> None:
        """Kill a raylet: what runs there ends with it."""
        _kill_all(self._raylets.pop(name))

    def kill_head(self) -> None:
        _kill_all(self._cluster.head_node)

    def kill_worker(self, node: str) -> None:
        """The worker dies, and the actor that keeps it alive does not."""
        _kill_worker(self.left(node))

    def left(self, node: str = "") -> list[int]:
        """The processes of our actors (on this node), and of what they have started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = (process / "cmdline").read_bytes().startswith(b"ray::Keeper")
                if ours and f"SLURMD_NODENAME={node}" in (process / "environ").read_text(errors="replace"):
                    found += [int(process.name), *_below(int(process.name))]
        return found

    def remove(self) -> None:
        for node in (*self._raylets.values(), self._cluster.head_node):
            _kill_all(node)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self._mark}" in (process / "environ").read_text(errors="replace"):
                    os.kill(int(process.name), signal.SIGKILL)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """What Ray starts here has our environment, and this process keeps its own, and its handler of SIGTERM."""
        kept, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
        os.environ.update(self._environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)
            signal.signal(signal.SIGTERM, handler)  # Ray's would drain a node, for half a minute.


MARK = "TEST_CLUSTER"  # a variable by which our cluster's processes are known
SMALL: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


def _kill_all(node: Any) -> None:
    for processes in node.all_processes.values():
        for each in processes:
            with suppress(ProcessLookupError):
                each.process.kill()
                each.process.wait()
