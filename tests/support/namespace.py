"""A network of one's own, whose cable can be pulled out without either end being told. Needs root, and iproute2."""

import ctypes
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:99"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, joined with this one by a cable; `here` and `there` are the addresses of its ends."""

    name: str
    here: str
    there: str
    device: str

    def unplug(self) -> None:
        """Drop every packet from now on, in both directions; nobody gets an error.

        Each end believes that the other has the address of a card that nobody has, so whatever it sends is thrown away
        on arrival. `iptables -j DROP` does the same, where it is installed.
        """
        _ip("neigh", "replace", self.there, "lladdr", _NOBODY, "dev", self.device, "nud", "permanent")
        _ip("-n", self.name, "neigh", "replace", self.here, "lladdr", _NOBODY, "dev", "cable", "nud", "permanent")

    def plug_in(self) -> None:
        """Let packets through again."""
        _ip("neigh", "del", self.there, "dev", self.device)
        _ip("-n", self.name, "neigh", "del", self.here, "dev", "cable")

    def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread that lives in the namespace; the sockets that it opens are of that network."""
        results: list[T | BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/var/run/netns/{self.name}").open("rb") as network:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(network.fileno(), _CLONE_NEWNET) != 0:
                        number = ctypes.get_errno()
                        raise OSError(number, os.strerror(number))
                results.append(work())
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=enter, name=self.name)
        thread.start()
        thread.join()
        result = results[0]
        if isinstance(result, BaseException):
            raise result
        return result


def why_not() -> str:
    """Say why this machine forbids namespaces; empty if it does not."""
    if shutil.which("ip") is None:
        return "no ip command; on Debian: apt-get install iproute2"
    try:
        with namespace():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace for the length of the block."""
    name = f"rowcast-{uuid.uuid4().hex[:8]}"
    device = f"rc{name[-8:]}"
    subnet = f"10.{int(name[-2:], 16)}.{int(name[-4:-2], 16)}"
    made = Namespace(name, f"{subnet}.1", f"{subnet}.2", device)
    _ip("netns", "add", name)
    try:
        _ip("link", "add", device, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("addr", "add", f"{made.here}/30", "dev", device)
        _ip("link", "set", device, "up")
        _ip("-n", name, "addr", "add", f"{made.there}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        yield made
    finally:
        subprocess.run(["ip", "link", "del", device], check=False, capture_output=True)
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)
