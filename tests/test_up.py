"""anlyt up: one command brings everything up, proves its sample, outlives what it runs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import httpx2
import pytest

from commands import anlyt, environment, start
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

START_LIMIT_S = 90  # with the sample, on a busy machine
STOP_LIMIT_S = 30
ROLES = {"postgres", "nats-server", "anlyt api", "anlyt jobs loop", "anlyt worker"}


class Up:
    """A running `anlyt up --json` with embedded servers in a directory. A context."""

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        self.env = environment(data_dir=str(data_dir), **{"http_port": "0"} | variables)
        self._process = start("up", "--json", *arguments, env=self.env)
        assert self._process.stderr is not None
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._listen, args=(self._process.stderr,))
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> dict[str, Any]:
        """What it prints when it is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.said()
        return json.loads(line)

    def _listen(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._said.append(line)

    def has_begun(self) -> bool:
        """Whether it has said something."""
        return bool(self._said)

    def said(self) -> str:
        """Its stderr, when it has ended."""
        self._process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        return "".join(self._said)

    def children(self) -> dict[str, int]:
        """What it runs: short names and process ids."""
        return {name: pid for pid, name in processes_below(self.pid)}

    def stop(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self._process.wait(STOP_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self.said()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()


def processes_below(pid: int) -> Iterator[tuple[int, str]]:
    done = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)],  # noqa: S607 - whatever ps there is
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        number, _, words = line.strip().partition(" ")
        role = re.search(r"-m (anlyt .*)", words)
        if role or re.search(r"/(postgres|nats-server) ", words):
            yield int(number), role[1] if role else words.partition(" ")[0].rpartition("/")[2]


LIVE_LIMIT_S = 150  # live traffic follows the hour: at night some ten seconds may pass between two events


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def get(ready: dict[str, Any], key: str, path: str, **parameters: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {ready['keys'][key]}"}
    return httpx2.get(f"{ready['address']}{path}", params=parameters, headers=headers)


def platform_total(ready: dict[str, Any]) -> int:
    answer = get(ready, "platform", "/v1/metrics/daily", scope="PLATFORM", **{"from": "-40d"})

    assert answer.status_code == 200, answer.text
    return sum(row["totalMessages"] for row in answer.json()["data"])


def counted_events(ready: dict[str, Any]) -> int:
    return int(get(ready, "platform", "/v1/status").json()["counted"])


def numbers_in(line: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", line)]


@pytest.mark.timeout(240)
def test_the_sample_is_counted_proven_served_and_kept(server_dir: Path) -> None:
    with Up(server_dir / "data", "--demo") as up:
        ready = up.ready()
        total = platform_total(ready)
        operator = get(ready, "operator", "/v1/operators/performance", **{"from": "-7d"}).json()["data"]
        account = get(ready, "account", "/v1/accounts/usage", **{"from": "-30d"}).json()["data"]
        before = counted_events(ready)
        run(wait_until(lambda: counted_events(ready) > before, LIVE_LIMIT_S, what="live traffic is counted"), 200)
        children = up.children()
        code = up.stop(signal.SIGINT)
        said = up.said()
    published, counted, sums = (line for line in said.splitlines() if re.match("published|counted|accounts", line))

    assert code == 0
    assert set(children) > ROLES
    assert any("events simulate" in name for name in children)
    assert not any(map(lives, children.values()))
    assert not (server_dir / "data/servers.json").exists()
    assert numbers_in(published) == numbers_in(counted)
    assert numbers_in(counted)[0] > 190_000
    assert sums.startswith("accounts add up to the platform: ")
    assert numbers_in(sums)[0] == numbers_in(sums)[1] <= total
    assert len({row["operatorId"] for row in operator}) == len({row["accountId"] for row in account}) == 1

    with Up(server_dir / "data", "--demo") as again:
        kept = again.ready()
        total_again = platform_total(kept)
        again.stop(signal.SIGTERM)
        said = again.said()

    assert kept["keys"] == ready["keys"]
    assert total_again >= total
    assert "the sample history is there already" in said


@pytest.mark.timeout(180)
def test_what_dies_is_started_again_and_nothing_outlives_the_whole(server_dir: Path) -> None:
    with Up(server_dir / "data") as up:
        ready = up.ready()
        before = up.children()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)

        def all_new() -> bool:
            now = up.children()
            return set(now) == ROLES and not set(now.values()) & set(before.values())

        run(wait_until(all_new, 60), limit_s=70)
        made = anlyt("events", "simulate", "--fast", "--duration", "1m", "--json", env=up.env).document
        counted = anlyt("worker", "--until-idle", "--json", env=up.env)  # whichever worker it was

        def served() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return get(ready, "platform", "/v1/status").json().get("counted") == made["events"]
            return False

        run(wait_until(served, 30, what="the API tells what was counted"), limit_s=40)
        children = up.children()
        os.kill(up.pid, signal.SIGKILL)
        run(wait_until(lambda: not any(map(lives, children.values())), 30, what="no child outlives it"), limit_s=40)

    assert counted.code == 0, counted.err
    with Up(server_dir / "data") as again:
        kept = again.ready()
        status = get(kept, "platform", "/v1/status").json()

    assert status["counted"] == made["events"]
    assert kept["keys"] == ready["keys"]


@pytest.mark.timeout(120)
def test_a_second_one_names_the_first_and_a_stopped_start_ends_well(server_dir: Path) -> None:
    with Up(server_dir / "data") as up:
        port = up.ready()["address"].rpartition(":")[2]
        same_port = anlyt("up", env=up.env | {"ANLYT_HTTP_PORT": port})
        same_data = anlyt("up", env=up.env)
        other_data = anlyt("up", env=up.env | {"ANLYT_HTTP_PORT": port, "ANLYT_DATA_DIR": str(server_dir / "other")})
        revoked = anlyt("keys", "list", "--json", env=up.env).document[0]["key_id"]
        anlyt("keys", "revoke", revoked, env=up.env)

    assert [result.code for result in (same_port, same_data, other_data)] == [3, 3, 3]
    assert f"anlyt up runs already, as process {up.pid}" in same_port.err
    assert f"is in use by process {up.pid}" in same_data.err
    assert f"cannot listen on 127.0.0.1:{port}" in other_data.err
    assert "Traceback" not in same_port.err + same_data.err + other_data.err

    with Up(server_dir / "data") as stopped:
        run(wait_until(stopped.has_begun, 20))
        children = stopped.children()

        assert stopped.stop(signal.SIGINT) == 0
        assert not any(map(lives, children.values()))

    with Up(server_dir / "data") as again:
        assert revoked not in again.ready()["keys"]["platform"]
