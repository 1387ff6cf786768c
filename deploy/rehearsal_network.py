"""The networks of a rehearsal: one address a pod, in network namespaces joined by a bridge; or all on loopback.

With namespaces the chart's commands run with the cluster's own names and ports, and a node can be lost as nodes are
lost: without a word, not even the kernel's "connection reset". The bridge stands in a namespace of its own too, which
has no way out: nothing here touches the machine's network, and all of it is gone with the last process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from rehearsal_parts import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INSIDE = "REHEARSAL_INSIDE"
CLUSTER_PORTS = {"s3": 9000, "scheduler": 8786, "dashboard": 8787, "metrics": 9100}


class Loopback:
    """Everything at 127.0.0.1, each thing at a port of its own. A lost pod is a killed process."""

    own_addresses = False

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in CLUSTER_PORTS}

    def add(self, name: str) -> str:
        """Address of a new pod."""
        return "127.0.0.1"

    def call(self, host: str, name: str) -> None:
        """Let `host` be a name of the pod. On loopback the pods' own words are changed instead."""

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """What runs `command` in the pod of this name."""
        return list(command)

    def cut(self, name: str) -> None:
        """Take the pod from the network. Not to be had on loopback."""

    def join_again(self, name: str) -> str:
        return "127.0.0.1"


class Namespaces:
    """A network namespace for each pod, and a bridge; (folder) takes the table of names that all of them read."""

    own_addresses = True

    def __init__(self, folder: Path) -> None:
        self.ports = dict(CLUSTER_PORTS)
        self._addresses: dict[str, str] = {}
        self._given = 1
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        # A folder of its own for `ip netns`, seen by this process and its children alone.
        _run("mount", "-t", "tmpfs", "none", "/run")
        _run("mount", "--bind", str(self._hosts), "/etc/hosts")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "cluster", "type", "bridge")
        _run("ip", "address", "add", f"{_address(1)}/24", "dev", "cluster")
        _run("ip", "link", "set", "cluster", "up")

    def add(self, name: str) -> str:
        """Address of a new pod."""
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"v-{name}", "master", "cluster")
        self._inside(name, "ip", "link", "set", "lo", "up")
        return self.join_again(name)

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """What runs `command` in the pod of this name; its process is the command's own."""
        return ["ip", "netns", "exec", name, *command]

    def cut(self, name: str) -> None:
        """Take the pod from the network: from now on nobody gets a word from it, nor an error."""
        _run("ip", "link", "set", f"v-{name}", "down")

    def join_again(self, name: str) -> str:
        """A new address, as a pod on another node has."""
        self._given += 1
        address = _address(self._given)
        self._inside(name, "ip", "address", "flush", "dev", "eth0")
        self._inside(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        self._inside(name, "ip", "link", "set", "eth0", "up")
        _run("ip", "link", "set", f"v-{name}", "up")
        # Leads nowhere; but Dask finds its own address by asking which way it would take to another.
        self._inside(name, "ip", "route", "replace", "default", "via", _address(1))
        self._addresses[name] = address
        return address

    def call(self, host: str, name: str) -> None:
        """Let `host` be a name of the pod in everybody's eyes, as the cluster's DNS does."""
        with self._hosts.open("a") as table:
            table.write(f"{self._addresses[name]} {host}\n")

    def _inside(self, name: str, *command: str) -> None:
        _run(*self.command(name, command))


def choose(asked: str) -> type[Loopback] | type[Namespaces]:
    """The network: `asked` is loopback, namespaces, or auto. Starts this program anew within namespaces of its own.

    Raises SystemExit where namespaces were asked for and cannot be had.
    """
    if os.environ.pop(INSIDE, ""):
        return Namespaces
    if asked == "loopback":
        return Loopback
    unshare = ["unshare", "--net", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    reason = _why_not(unshare)
    if reason is None:
        sys.stdout.flush()
        os.execvpe("unshare", [*unshare, "--", sys.executable, *sys.argv], {**os.environ, INSIDE: "yes"})
    if asked == "namespaces":
        raise SystemExit(f"network namespaces cannot be had here: {reason}")
    print(f"on loopback, for network namespaces cannot be had here: {reason}", flush=True)
    return Loopback


def _why_not(unshare: list[str]) -> str | None:
    missing = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: apt-get install iproute2 util-linux)"
    # All that will be done, tried once: a kernel or a container may refuse any of it.
    trial = (
        "mount -t tmpfs none /run && ip link add try type bridge && ip netns add try && "
        "ip link add v-try type veth peer name eth0 netns try && ip netns exec try true"
    )
    done = subprocess.run([*unshare, "sh", "-c", trial], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _address(number: int) -> str:
    return f"10.244.0.{number}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
