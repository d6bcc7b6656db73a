"""A real Slurm on this machine: a controller and two nodes, as children of the tests, with all files in one folder.

Its jobs import this file too, for the tasks at its end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

CONFIGURATION = """\
ClusterName=ablations
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,defer_batch=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=15
MinJobAge=300
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=10
Waittime=0
MaxArraySize=20001
MaxJobCount=20000
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

PATIENCE = 30.0
"""Seconds for a daemon to start or to end."""


def why_not() -> str:
    """Why no Slurm can be started here; empty if it can."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not find_program(name)]
    if missing:
        return f"needs {', '.join(missing)}, which are not installed"
    if os.getuid():
        return "needs to be root, as Slurm's daemons do"
    return "" if find_spec("submitit") else "needs submitit, which is not installed"


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class SlurmCluster:
    """A running Slurm. Commands reach it by the environment variable SLURM_CONF."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen] = {}
        names = ("controller", "n1", "n2")
        ports = dict(zip(names, find_ports(len(names)), strict=True))
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports))
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self.environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")]
        socket_ = self.folder / "munge.socket"
        self._run("munged", "--foreground", "--force", f"--socket={socket_}", *files, "--num-threads=2")
        self.wait(socket_.exists)
        self._run("slurmctld", "-D", "-i", "-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait(lambda: self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split() == ["idle", "idle"])

    def _run(self, program: str, *arguments: str, name: str = "", before: tuple[str, ...] = ()) -> None:
        path = find_program(program)
        assert path
        with (self.folder / f"{name or program}.out").open("a") as log:
            self._daemons[name or program] = subprocess.Popen(
                [*before, path, *arguments], stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def start_node(self, node: str, *before: str) -> None:
        """Starts a node, by a command `before` it if there is one."""
        self._run("slurmd", "-D", "-N", node, name=node, before=before)

    def kill_node(self, node: str) -> None:
        """Kills a node with all its jobs, as a power cut would."""
        daemon = self._daemons.pop(node)
        for process in [daemon.pid, *list_below(daemon.pid), *find_steps(f"{self.folder}/slurmd.{node}.log")]:
            kill(process)
        daemon.wait(PATIENCE)

    def stop_node(self, node: str) -> None:
        daemon = self._daemons.pop(node)
        daemon.terminate()
        daemon.wait(PATIENCE)

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints; empty if it fails."""
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60).stdout

    def wait(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.folder}: not so after {seconds} seconds"
            time.sleep(0.05)

    def close(self) -> None:
        """Ends all jobs and all daemons."""
        if "slurmctld" in self._daemons:
            self.ask("scancel", "--signal=KILL", "--full", "--user=root")
            self.ask("scancel", "--user=root")
        for daemon in reversed(list(self._daemons.values())):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def find_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def list_below(process: int) -> list[int]:
    """The processes that a process has started, and those that they have started."""
    try:
        children = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *list_below(child))]


def find_steps(log: str) -> list[int]:
    """The supervisors of the jobs of a node, by its log, and all that they have started: they outlive its daemon."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd"):
        process = int(path.parent.name)
        try:
            command = (path.parent / "cmdline").read_bytes()
            held = {str(each.readlink()) for each in path.iterdir()}
        except OSError:
            continue
        if b"slurmstepd" in command and log in held:
            found += [process, *list_below(process)]
    return found


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def mark(path, name, context):
    """A task that notes its node and its job in a file."""
    note(path, f"{name} {os.environ['SLURMD_NODENAME']} {os.environ['SLURM_JOB_ID']}")
    return "done"


def stay(path, context):
    """A task that keeps a state and runs until it is told to end, but for its second life."""
    note(path, "life")
    lives = len(Path(path).read_text().splitlines())
    context.kept((lives, 0))
    while lives == 1 and not context.stopping():
        time.sleep(0.05)
    return "stopped" if lives == 1 else "done"


def never_end(context):
    """A task that runs until it is told to end."""
    while not context.stopping():
        time.sleep(0.05)
    return "stopped"


def nothing(context):
    """A task that does nothing."""
    return "done"


def note(path, text):
    with Path(path).open("a") as file:
        file.write(f"{text}\n")
