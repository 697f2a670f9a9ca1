"""A SLURM cluster of one's own on one machine: two CPU nodes, one with two pretended GPUs, no accounting daemon.

Needs Debian's slurm-wlm and munge, and to be root: SLURM's daemons run jobs as the users who submit them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
DEFAULT = Path("/etc/slurm/slurm.conf")
"""The job step plugin drops SLURM_CONF, so that the configuration must be found here too."""
CPUS = 4
CONFIG = """
ClusterName=dawm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.socket
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16821
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=20
MinJobAge=86400
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,sched_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName=cpu[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[16822-16823] CPUs={cpus} RealMemory={memory}
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16824 CPUs={cpus} RealMemory={memory} Gres=gpu:fake:2
PartitionName=cpu Nodes=cpu[1-2] Default=YES MaxTime=2880 State=UP PriorityTier=1
PartitionName=gpu Nodes=gpu1 MaxTime=2880 State=UP PriorityTier=1
PartitionName=urgent Nodes=gpu1 MaxTime=2880 State=UP PriorityTier=10 PreemptMode=OFF
"""
GPUS = "NodeName=gpu1 Name=gpu Type=fake Count=2 File=/dev/null,/dev/zero\n"
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"


class Cluster:
    """A running one. Jobs stay in its memory after their end, for `jobs`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}

    def tell(self, *command: str) -> str:
        """Runs one of SLURM's commands and returns what it says."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return result.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Everything that SLURM tells about each job since the start, by its own names; task i of array n is n_i."""
        lines = self.tell("scontrol", "show", "job", "-o", "--details").splitlines()
        return [dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", line)) for line in lines if "JobId=" in line]

    def start_node(self, name: str) -> None:
        (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
        subprocess.run(["slurmd", "-N", name], env=self.environment, check=True)

    def kill_node(self, name: str) -> None:
        """As a machine that loses power: its daemon and all that it runs, without a word."""
        kill(descendants(int((self.root / "run" / f"slurmd-{name}.pid").read_text()), name))

    def idle(self) -> bool:
        return len(set(self.tell("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())) == 3


@contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """Starts one below `root`, and stops what it started."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"SLURM is not installed: no {', '.join(missing)} on PATH; make test-cluster INSTALL=1")
    if DEFAULT.exists() and not DEFAULT.is_symlink():
        raise RuntimeError(f"{DEFAULT}: this machine has a SLURM of its own; its file is left alone")
    for name in ("munge", "run", "state", "spool", "log"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    (root / "slurm.conf").write_text(CONFIG.format(host=host, root=root, cpus=CPUS, memory=memory))
    (root / "gres.conf").write_text(GPUS)
    (root / "cgroup.conf").write_text(CGROUPS)
    made = Cluster(root)
    links = [DEFAULT.with_name(name) for name in ("slurm.conf", "gres.conf", "cgroup.conf")]
    try:
        DEFAULT.parent.mkdir(exist_ok=True)
        for link in links:
            link.unlink(missing_ok=True)
            link.symlink_to(root / link.name)
        start_munge(root)
        subprocess.run(["slurmctld"], env=made.environment, check=True)
        wait_for(lambda: "UP" in made.tell("scontrol", "ping"), 30)
        for name in ("cpu1", "cpu2", "gpu1"):
            made.start_node(name)
        wait_for(made.idle, 30)
        yield made
    finally:
        stop(root)
        for link in links:
            link.unlink(missing_ok=True)


def start_munge(root: Path) -> None:
    """With a key and a socket of its own."""
    folder = root / "munge"
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    options = {
        "key-file": key,
        "socket": folder / "munge.socket",
        "pid-file": root / "run" / "munged.pid",
        "log-file": root / "log" / "munged.log",
        "seed-file": folder / "munged.seed",
    }
    folder.chmod(0o755)
    subprocess.run(["munged", "--force", *(f"--{name}={path}" for name, path in options.items())], check=True)


def stop(root: Path) -> None:
    """All daemons and jobs below `root`; munge last, without which the others cannot be told."""
    pids = sorted((root / "run").glob("*.pid"), key=lambda path: path.name == "munged.pid")
    for path in pids:
        name = path.stem.removeprefix("slurmd-")
        kill(descendants(int(path.read_text()), name))


def kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def descendants(daemon: int, node: str) -> list[int]:
    """A daemon, and where it is a node's, the keepers of its job steps (slurmstepd) with all that they run. Keepers
    come first: they would report the end of what they keep."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    on_node = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, fields = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            names[int(entry.name)], parents[int(entry.name)] = name, int(fields.split()[1])
            if f"SLURMD_NODENAME={node}\0".encode() in (entry / "environ").read_bytes():
                on_node.append(int(entry.name))
        except (OSError, ValueError):
            continue
    keepers = {parents[process] for process in on_node if names.get(parents[process]) == "slurmstepd"}
    found = [daemon] if daemon in parents else []
    found += [*sorted(keepers), *on_node]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process and child not in found]
    return list(dict.fromkeys(found))


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Until it holds; what raises counts as not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except AssertionError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} seconds")
        time.sleep(0.2)
