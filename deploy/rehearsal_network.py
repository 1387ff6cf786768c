"""The networks of a rehearsal: network namespaces with one address for each pod and a bridge, or loopback alone.

With namespaces the chart's commands run with the cluster's own names and ports, and a node is lost as real nodes are:
silently, without the kernel's "connection reset". The bridge is in a namespace of its own without a route outside. So
the machine's network is not touched, and everything disappears with the last process.
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
    """All pods at 127.0.0.1, each at a port of its own. A lost pod is a killed process."""

    own_addresses = False

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in CLUSTER_PORTS}

    def add(self, name: str) -> str:
        """Add a pod and return its address."""
        return "127.0.0.1"

    def add_name(self, host: str, name: str) -> None:
        """Do nothing: on loopback host names are replaced in the pods' commands."""

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` in the pod of this name."""
        return list(command)

    def cut(self, name: str) -> None:
        """Do nothing: on loopback a pod cannot be cut off."""

    def rejoin(self, name: str) -> str:
        """Return the pod's address, which stays."""
        return "127.0.0.1"


class Namespaces:
    """A network namespace for each pod, and a bridge.

    Parameters
    ----------
    folder : Path
        Folder for the table of host names, which all pods read.
    """

    own_addresses = True

    def __init__(self, folder: Path) -> None:
        self.ports = dict(CLUSTER_PORTS)
        self._addresses: dict[str, str] = {}
        self._last_address = 1
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        # A folder for `ip netns` that only this process and its children see.
        _run("mount", "-t", "tmpfs", "none", "/run")
        _run("mount", "--bind", str(self._hosts), "/etc/hosts")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "cluster", "type", "bridge")
        _run("ip", "address", "add", f"{_address(1)}/24", "dev", "cluster")
        _run("ip", "link", "set", "cluster", "up")

    def add(self, name: str) -> str:
        """Add a pod and return its address."""
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"v-{name}", "master", "cluster")
        self._inside(name, "ip", "link", "set", "lo", "up")
        return self.rejoin(name)

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` in the pod of this name, as the same process."""
        return ["ip", "netns", "exec", name, *command]

    def cut(self, name: str) -> None:
        """Cut the pod off: its peers receive nothing more from it, not even an error."""
        _run("ip", "link", "set", f"v-{name}", "down")

    def rejoin(self, name: str) -> str:
        """Connect the pod with a new address, as a pod on another node has, and return it."""
        self._last_address += 1
        address = _address(self._last_address)
        self._inside(name, "ip", "address", "flush", "dev", "eth0")
        self._inside(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        self._inside(name, "ip", "link", "set", "eth0", "up")
        _run("ip", "link", "set", f"v-{name}", "up")
        # The route ends at the bridge, but Dask finds its own address by asking for the route to another.
        self._inside(name, "ip", "route", "replace", "default", "via", _address(1))
        self._addresses[name] = address
        return address

    def add_name(self, host: str, name: str) -> None:
        """Make `host` a name of the pod for all pods, as the cluster's DNS does."""
        with self._hosts.open("a") as table:
            table.write(f"{self._addresses[name]} {host}\n")

    def _inside(self, name: str, *command: str) -> None:
        _run(*self.command(name, command))


def choose(asked: str) -> type[Loopback] | type[Namespaces]:
    """Choose the network, and restart this program within namespaces of its own where it uses them.

    Parameters
    ----------
    asked : str
        "loopback", "namespaces", or "auto" for namespaces where this machine allows them.

    Returns
    -------
    type
        The network's class.

    Raises
    ------
    SystemExit
        If "namespaces" were asked for and this machine does not allow them.
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
        raise SystemExit(f"this machine does not allow network namespaces: {reason}")
    print(f"on loopback, since this machine does not allow network namespaces: {reason}", flush=True)
    return Loopback


def _why_not(unshare: list[str]) -> str | None:
    """Return why network namespaces are not possible here, or None if they are."""
    missing = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: apt-get install iproute2 util-linux)"
    # Try each step once: a kernel or a container may refuse any of them.
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
