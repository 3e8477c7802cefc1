"""A Slurm cluster of one node on loopback, from Debian's slurm-wlm: munged, slurmctld and slurmd by hand."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
SYSTEM = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# A requeued job waits until the old credential has expired: two minutes by default.
CONFIGURATION = """\
ClusterName=rig
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=rig Nodes=ALL Default=YES State=UP
"""


def missing() -> list[str]:
    """The programs of the rig that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _until_idle(daemons: list[subprocess.Popen[bytes]], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False
        ).stdout.split()
        if states == ["idle"]:
            return
        dead = [one.args for one in daemons if one.poll() is not None]
        if dead:
            raise RuntimeError(f"the rig's daemon ended: {dead}")
        time.sleep(0.2)
    raise RuntimeError(f"the rig's node is not idle after {seconds} s: {states}")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A running cluster in ``folder``, which the commands of this process find by SLURM_CONF."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=host, user=getpass.getuser(), folder=folder, controller=_free_port(), node=_free_port()
        )
    )
    before = dict(os.environ)
    os.environ.update(PATH=SYSTEM, SLURM_CONF=str(folder / "slurm.conf"))
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        + [f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed")],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(0.5)
        _until_idle(daemons)
        yield
    finally:
        subprocess.run(["scancel", "--me"], check=False, timeout=30)
        for one in reversed(daemons):
            one.terminate()
        for one in daemons:
            try:
                one.wait(15)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        os.environ.clear()
        os.environ.update(before)
