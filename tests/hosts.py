"""Several hosts on one machine: each a network namespace with a line of its own to the servers, which can be cut.

The servers live outside and listen on SERVERS, an address that only these lines lead to. Needs root, and Debian's
iproute2 and nftables; whatever was made is taken down again.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

import databases
import debian
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

NETWORK: Final = "10.213"
SERVERS: Final = f"{NETWORK}.255.1"
LOSE: Final = """
table inet loss {{
    chain sent {{ type filter hook output priority 0; numgen random mod 100 < {percent} drop; }}
    chain came {{ type filter hook input priority 0; numgen random mod 100 < {percent} drop; }}
}}
"""
SMALL: Final = {"fsync": "off", "shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "128MB"}


class Cut(Enum):
    """What of a line is gone. Nobody is told: packets vanish."""

    BOTH = "both ways"
    TO_SERVERS = "what the host sends"
    FROM_SERVERS = "what the host is sent"


class Host:
    """A namespace with one line."""

    def __init__(self, number: int) -> None:
        self.name = f"anlyt-{os.getpid()}-{number}"
        self._line = f"al{os.getpid() % 100_000}-{number}"  # at most 15 characters
        self._gateway, self._address = f"{NETWORK}.{number}.1", f"{NETWORK}.{number}.2"

    @property
    def words(self) -> list[str]:
        """What a command begins with to run there."""
        return [debian.program("ip", "iproute2"), "netns", "exec", self.name]

    def lose(self, percent: int) -> None:
        """Let so many of a hundred packets vanish, each way, by chance."""
        self._filter(LOSE.format(percent=percent))

    def lose_nothing(self) -> None:
        """Let all through again."""
        self._filter("delete table inet loss")

    def _filter(self, rules: str) -> None:
        run_tool(*self.words, debian.program("nft", "nftables"), "-f", "-", told=rules)

    def cut(self, what: Cut) -> None:
        """Let packets vanish."""
        self._route("add", what)

    def mend(self, what: Cut) -> None:
        """Let them through again."""
        self._route("del", what)

    def _route(self, verb: str, what: Cut) -> None:
        if what is not Cut.FROM_SERVERS:
            ip("-n", self.name, "route", verb, "blackhole", f"{SERVERS}/32")
        if what is not Cut.TO_SERVERS:
            ip("route", verb, "blackhole", f"{self._address}/32")

    def open(self) -> None:
        """Make the namespace and its line."""
        ip("netns", "add", self.name)
        ip("link", "add", self._line, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{self._gateway}/30", "dev", self._line)
        ip("link", "set", self._line, "up")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "addr", "add", f"{self._address}/30", "dev", "eth0")
        ip("-n", self.name, "route", "add", "default", "via", self._gateway)

    def close(self) -> None:
        """Take both down, cut or not."""
        for words in (("route", "del", "blackhole", f"{self._address}/32"), ("link", "del", self._line)):
            with suppress(AssertionError):
                ip(*words)
        with suppress(AssertionError):
            ip("netns", "del", self.name)


def ip(*words: str) -> None:
    """Run iproute2."""
    run_tool(debian.program("ip", "iproute2"), *words)


def run_tool(*words: str, told: str = "") -> None:
    """Run a command with something on its standard input; AssertionError with what it says when it fails."""
    done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@contextmanager
def hosts(number: int) -> Generator[list[Host]]:
    """So many hosts, each of which reaches SERVERS. The test is skipped where one cannot make any."""
    if os.geteuid() != 0:
        pytest.skip("NOT TRIED: only root can make network namespaces")
    made = [Host(n) for n in range(1, number + 1)]
    with ExitStack() as stack:
        ip("addr", "add", f"{SERVERS}/32", "dev", "lo")
        stack.callback(ip, "addr", "del", f"{SERVERS}/32", "dev", "lo")
        for host in made:
            stack.callback(host.close)
            host.open()
        yield made


class OpenNats(EmbeddedNats):
    """A nats-server that listens on SERVERS, too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, sync_interval="1m")

    def _configuration(self) -> str:
        return super()._configuration().replace('listen: "127.0.0.1:', 'listen: "0.0.0.0:')


class OpenPostgres(EmbeddedPostgres):
    """A PostgreSQL that listens on SERVERS, too, and lets the hosts in."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, settings=SMALL | {"listen_addresses": f"127.0.0.1, {SERVERS}"})

    async def start(self) -> None:
        """Start, and let the hosts in."""
        await super().start()
        with (self._keeper.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK}.0.0/16 scram-sha-256\n")
        await databases.execute(self.admin_url, "SELECT pg_reload_conf()")


def seen_from_hosts(url: str) -> str:
    """A server's address as the hosts have it."""
    assert urlsplit(url).hostname == "127.0.0.1"
    return url.replace("@127.0.0.1:", f"@{SERVERS}:")
