"""The embedded archive: one owner of a chDB directory, found by everybody, speaking ClickHouse's protocol."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from anlyt import chdb_owner
from anlyt.clickhouse import ClickHouse, read_address
from anlyt.errors import ArchiveUnavailable
from support import run, server_directory, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with server_directory() as path:
        yield path / "archive"
        stop(path / "archive")


@pytest.fixture(scope="module")
def client(directory: Path) -> Iterator[Client]:
    """clickhouse-connect itself, as anybody would use it: packing, reading in streams."""
    made = connect(directory, compress=True)
    yield made
    made.close()


def connect(directory: Path, **changes: Any) -> Client:
    owner = chdb_owner.find_or_start(directory)
    options: dict[str, Any] = {
        "password": owner.password,
        "autogenerate_session_id": False,
        "dedicated_pool": True,
    } | changes
    return clickhouse_connect.get_client(host="127.0.0.1", port=owner.port, username=chdb_owner.USER, **options)


def stop(directory: Path) -> None:
    owner = chdb_owner.find(directory)
    if owner is not None:
        os.kill(owner.pid, signal.SIGTERM)
        run(wait_until(lambda: not is_there(owner.pid), what="the owner ends"))


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------ protocol


def test_values_survive_both_ways(client: Client) -> None:
    client.command(
        "CREATE TABLE t (a Int64, b LowCardinality(String), c Decimal(18, 6), d Nullable(Int32), e UInt64)"
        " ENGINE = MergeTree ORDER BY a"
    )
    rows = [(-(2**63), "ä\t\\'\n", "-999999999999.999999", None, 0), (2**63 - 1, "", "0.000001", -1, 2**64 - 1)]
    client.insert("t", rows, column_names=list("abcde"))
    client.raw_insert("t", list("abcde"), b"5\tx\\ty\t1.5\t\\N\t7\n", fmt="TabSeparated")

    found = client.query("SELECT a, b, toString(c), d, e FROM t ORDER BY a").result_rows

    assert found == [rows[0], (5, "x\ty", "1.5", None, 7), rows[1]]


@pytest.mark.parametrize("value", ["a'b", "\\", "tab\tline\n", "{x:Int8}", "'); DROP TABLE t; --", "\x00"])
def test_a_parameter_is_a_value_whatever_is_in_it(client: Client, value: str) -> None:
    answer = client.query("SELECT {one:String}, {many:Array(String)}", parameters={"one": value, "many": [value]})

    assert answer.result_rows == [(value, [value])]


def test_settings_hold_for_one_request_only(client: Client) -> None:
    before = client.command("SELECT getSetting('max_threads')")

    assert client.command("SELECT getSetting('max_threads')", settings={"max_threads": 3}) == 3
    assert client.command("SELECT getSetting('max_threads')") == before


def test_an_error_has_clickhouses_code_and_words_and_ends_nothing(client: Client) -> None:
    with pytest.raises(DatabaseError, match="Unknown expression identifier `nope`") as caught:
        client.command("SELECT nope")

    assert caught.value.code == 47
    assert client.command("SELECT 1") == 1


def test_rows_that_cannot_be_read_are_refused_whole(client: Client) -> None:
    client.command("CREATE TABLE refused (a UInt64) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError, match="CANNOT_PARSE"):
        client.raw_insert("refused", ["a"], b"1\n-1\n", fmt="TabSeparated")

    assert client.command("SELECT count() FROM refused") == 0


def test_many_rows_come_in_pieces(client: Client) -> None:
    with client.query_rows_stream("SELECT number FROM numbers(300000)") as rows:
        assert sum(row[0] for row in rows) == 300000 * 299999 // 2


def test_nobody_without_the_password_gets_in(directory: Path, client: Client) -> None:
    for password in ("", "wrong"):
        with pytest.raises(DatabaseError, match="AUTHENTICATION_FAILED"):
            connect(directory, password=password)


def test_many_ask_at_the_same_time(directory: Path) -> None:
    async def scenario() -> None:
        archive = ClickHouse(f"chdb://{directory}")
        await archive.execute("CREATE DATABASE IF NOT EXISTS anlyt", in_database=False)
        answers = await asyncio.gather(
            *(
                archive.fetch("SELECT {n:Int64} AS n, sum(number) AS s FROM numbers(100000)", {"n": n})
                for n in range(20)
            )
        )
        await archive.close()

        assert [answer[0]["n"] for answer in answers] == list(range(20))

    run(scenario())


# --------------------------------------------------------------------------------------------------------------- owner


def test_only_this_user_may_read_the_owners_file(directory: Path, client: Client) -> None:
    for name in (chdb_owner.OWNER_FILE, chdb_owner.LOG_FILE, chdb_owner.LOCK_FILE):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_all_who_start_it_at_the_same_time_find_the_same_owner(server_dir: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        owners = set(pool.map(lambda _: chdb_owner.find_or_start(server_dir / "a"), range(4)))
    stop(server_dir / "a")

    assert len(owners) == 1


def arrow_stream(number: int) -> bytes:
    """One row with the column `a`."""
    arrow: Any = importlib.import_module("pyarrow")
    table, sink = arrow.table({"a": [number]}), arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_an_owner_killed_in_the_middle_is_replaced_and_what_was_stored_stays(server_dir: Path) -> None:
    directory = server_dir / "archive"

    async def scenario() -> None:
        archive = ClickHouse(f"chdb://{directory}")
        await archive.execute("CREATE DATABASE anlyt", in_database=False)
        await archive.execute("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a SETTINGS fsync_after_insert = 1")
        for number in range(3):
            await archive.insert("t", arrow_stream(number))
            owner = chdb_owner.find(directory)
            assert owner is not None
            os.kill(owner.pid, signal.SIGKILL)

            assert await archive.fetch("SELECT count() AS n FROM t") == [{"n": number + 1}]
        await archive.close()

    run(scenario())
    stop(directory)


def test_it_outlives_who_started_it_while_somebody_is_connected_and_no_longer(server_dir: Path) -> None:
    directory = server_dir / "archive"
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "anlyt.chdb_server", str(directory), "0.3"], check=True)
    owner = chdb_owner.find(directory)
    assert owner is not None

    async def scenario() -> None:
        made = connect(directory)
        made.command("SELECT 1")
        waited = threading.Event()
        assert not await asyncio.to_thread(waited.wait, 1.0)
        assert is_there(owner.pid), "somebody is connected"

        made.close()
        await wait_until(lambda: not is_there(owner.pid), what="it ends by itself")

    run(scenario())

    assert not (directory / chdb_owner.OWNER_FILE).exists()


def test_a_directory_that_something_else_has_open_is_told_with_its_words(server_dir: Path) -> None:
    directory = server_dir / "archive"
    code = "import chdb, sys; c = chdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    try:
        with pytest.raises(ArchiveUnavailable, match=r"could not be started; it said:\n(?s:.)*Cannot lock file"):
            chdb_owner.find_or_start(directory)
    finally:
        other.communicate()


# ------------------------------------------------------------------------------------------------------------- address


@pytest.mark.parametrize(
    ("url", "shown", "database", "secure"),
    [
        ("clickhouse://me:p%40ss@ch.example:9000/stats", "ch.example:9000", "stats", False),
        ("clickhouse://ch.example", "ch.example:8123", "anlyt", False),
        ("clickhouses://ch.example/", "ch.example:8443", "anlyt", True),
        ("chdb:///var/lib/a%20b", "/var/lib/a b", "anlyt", False),
    ],
)
def test_an_address_is_read(url: str, shown: str, database: str, secure: bool) -> None:  # noqa: FBT001 - a table's column
    address = read_address(url)

    assert (address.shown, address.database, address.secure) == (shown, database, secure)


def test_an_archive_that_is_down_is_named_without_its_password() -> None:
    async def scenario() -> None:
        with pytest.raises(ArchiveUnavailable, match=r"the archive 127\.0\.0\.1:1 cannot be asked") as caught:
            await ClickHouse("clickhouse://me:hidden@127.0.0.1:1/x").fetch("SELECT 1")

        assert "hidden" not in str(caught.value)

    run(scenario())
