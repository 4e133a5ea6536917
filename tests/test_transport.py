"""Who is at the other end: TLS, certificates, nkeys, creds files and passwords, with real servers that ask."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nats.errors
import pytest

from anlyt import credentials, jetstream, postgres
from anlyt.credentials import Identity
from anlyt.errors import ConfigurationError, DatabaseUnavailable, StreamUnavailable
from anlyt.settings import Settings, load
from guarded import ACCOUNT, OPERATOR, authority, certificate, creds_file, nats_with, nkey, postgres_over_tls, token
from support import run

if TYPE_CHECKING:
    from pathlib import Path

    from anlyt.embedded import EmbeddedNats


async def reach(url: str, **files: Any) -> None:
    """Connect and ask something."""
    nc = await jetstream.connect(url, name="anlyt-tests", identity=Identity(**files))
    try:
        await nc.flush(5)
    finally:
        await nc.close()


# --------------------------------------------------------------------------------------------------------------- TLS


def test_over_tls_both_sides_are_who_their_certificates_say(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    server = certificate(tmp_path, "server", ours, "localhost")
    client, stranger = certificate(tmp_path, "client", ours), certificate(tmp_path, "stranger", theirs)
    config = f'tls {{ cert_file: "{server.cert}", key_file: "{server.key}", ca_file: "{ours.file}", verify: true }}'
    good: dict[str, Any] = {"ca_file": ours.file, "cert_file": client.cert, "key_file": client.key}

    async def story() -> None:
        async with nats_with(tmp_path, config) as port:
            for scheme in ("tls", "nats"):
                await reach(f"{scheme}://localhost:{port}", **good)
            with pytest.raises(StreamUnavailable, match="CERTIFICATE_VERIFY_FAILED"):  # an authority nobody named
                await reach(f"tls://localhost:{port}", **good | {"ca_file": theirs.file})
            with pytest.raises(StreamUnavailable, match="CERTIFICATE_VERIFY_FAILED"):  # the system's authorities
                await reach(f"tls://localhost:{port}")
            with pytest.raises(StreamUnavailable, match=re.escape("not valid for '127.0.0.1'")):  # another name
                await reach(f"tls://127.0.0.1:{port}", **good)
            for other in ({}, {"cert_file": stranger.cert, "key_file": stranger.key}):
                with pytest.raises(StreamUnavailable, match="cannot be reached"):
                    await reach(f"tls://localhost:{port}", ca_file=ours.file, **other)

    run(story())


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_nothing_is_sent_to_a_server_that_offers_no_tls(tmp_path: Path, scheme: str) -> None:
    """Somebody on the way can take the offer out of the greeting; the password must not follow."""
    ca_file = authority(tmp_path, "ours").file if scheme == "nats" else None

    async def story() -> str:
        async with nats_with(tmp_path, 'authorization { user: "anlyt", password: "right" }') as port:
            await reach(f"nats://anlyt:right@127.0.0.1:{port}")
            with pytest.raises(StreamUnavailable, match="offers no TLS") as refused:
                await reach(f"{scheme}://anlyt:CANARY@127.0.0.1:{port}", ca_file=ca_file)
            assert "CANARY" not in str(refused.value)
        return (tmp_path / "nats.log").read_text()

    assert "authentication error" not in run(story()).lower()  # it was not even asked


# ------------------------------------------------------------------------------------------------------- credentials


def test_a_user_a_token_and_an_nkey_are_let_in_and_others_are_not(tmp_path: Path) -> None:
    good, other = nkey(), nkey()
    good_file, other_file = tmp_path / "good.nk", tmp_path / "other.nk"
    good_file.write_text(good.seed + "\n")
    other_file.write_text(other.seed)
    users = f'authorization {{ users: [ {{ nkey: {good.public} }}, {{ user: "anlyt", password: "right" }} ] }}'

    async def story() -> None:
        async with nats_with(tmp_path, users) as port:
            await reach(f"nats://127.0.0.1:{port}", nkey_file=good_file)
            await reach(f"nats://anlyt:right@127.0.0.1:{port}")
            for url, file in ((f"nats://127.0.0.1:{port}", other_file), (f"nats://anlyt:wrong@127.0.0.1:{port}", None)):
                with pytest.raises(StreamUnavailable, match="Authorization Violation"):
                    await reach(url, nkey_file=file)
        async with nats_with(tmp_path, 'authorization { token: "right" }') as port:
            await reach(f"nats://right@127.0.0.1:{port}")
            with pytest.raises(StreamUnavailable, match="Authorization Violation"):
                await reach(f"nats://wrong@127.0.0.1:{port}")

    run(story())


def test_why_a_server_refuses_is_told_though_it_hangs_up_at_once() -> None:
    """A server that ends a connection before it has read all of it resets it, and closing our end fails by that."""

    async def refuse(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        answer.write(b'INFO {"server_id":"x","max_payload":1048576,"headers":true,"auth_required":true}\r\n')
        await client.readuntil(b"CONNECT")
        answer.write(b"-ERR 'Authorization Violation'\r\n")
        answer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        answer.transport.abort()

    async def scenario() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(30):
                with pytest.raises(StreamUnavailable, match="Authorization Violation"):
                    await jetstream.connect(f"nats://127.0.0.1:{port}", name="test")

    run(scenario())


def test_a_creds_file_is_let_in_and_read_again_for_every_connection(tmp_path: Path) -> None:
    operator, account, user, stranger = nkey(OPERATOR), nkey(ACCOUNT), nkey(), nkey()
    operator_token = token(operator, operator, "operator")
    account_token = token(account, operator, "account", limits={"subs": -1, "data": -1, "payload": -1, "conn": -1})
    user_token = token(user, account, "user", subs=-1, data=-1, payload=-1)
    config = f"operator: {operator_token}\nresolver: MEMORY\nresolver_preload {{ {account.public}: {account_token} }}"
    file = creds_file(tmp_path / "anlyt.creds", user_token, user.seed)

    async def story() -> None:
        async with nats_with(tmp_path, config, jetstream=False) as port:
            url = f"nats://127.0.0.1:{port}"
            await reach(url, creds_file=file)
            identity = Identity(creds_file=file)
            options = credentials.connect_options(identity)
            creds_file(file, user_token, stranger.seed)
            with pytest.raises(StreamUnavailable, match="Authorization Violation"):
                await reach(url, creds_file=file)
            file.unlink()
            with pytest.raises(nats.errors.Error, match="cannot be read"):
                options["user_jwt_cb"]()

    run(story())


@pytest.mark.parametrize("text", ["", "SUAB", "A" * 58, nkey(ACCOUNT).seed, nkey().seed[:-1] + "!", "CANARY" * 10])
def test_a_file_that_holds_no_seed_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "seed"
    file.write_text(text)

    for files in ({"nkey_file": file}, {"creds_file": file}):
        with pytest.raises(ConfigurationError) as refused:
            run(reach("nats://127.0.0.1:1", **files))
        assert str(file) in str(refused.value)
        assert not text or text not in str(refused.value)


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "nkey_file", "creds_file"])
def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"ANLYT_NATS_{name.upper()}: {tmp_path}/none"):
        run(reach("nats://127.0.0.1:1", **{name: tmp_path / "none"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ANLYT_NATS_CA_FILE": "/ca.pem"}, "ANLYT_NATS_CA_FILE says how to reach"),
        ({"ANLYT_NATS_URL": "tls://h", "ANLYT_NATS_CERT_FILE": "/c.pem"}, "are set together"),
        ({"ANLYT_NATS_URL": "tls://h", "ANLYT_NATS_NKEY_FILE": "/n", "ANLYT_NATS_CREDS_FILE": "/c"}, "two ways"),
        ({"ANLYT_NATS_INBOX": "a.>"}, "ANLYT_NATS_INBOX is 'a.>'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load({}, given)


# -------------------------------------------------------------------------------------------------------- PostgreSQL


def test_postgresql_is_verified_by_authority_and_name(tmp_path: Path, database_url: str) -> None:
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    made = certificate(tmp_path, "server", ours, "localhost")
    parts = urlsplit(database_url)
    assert parts.port is not None
    real_port = parts.port

    async def story() -> None:
        async with postgres_over_tls(real_port, made) as port:
            url = (
                database_url.replace(f"127.0.0.1:{real_port}", f"localhost:{port}")
                + "?sslmode=verify-full&sslrootcert="
            )
            async with postgres.session(f"{url}{ours.file}", application="test") as conn:
                assert await conn.fetchval("SELECT 1") == 1
            pool = await postgres.open_pool(f"{url}{ours.file}", application="test", size_max=2)
            assert await pool.fetchval("SELECT 1") == 1
            pool.terminate()
            for wrong in (f"{url}{theirs.file}", f"{url}{ours.file}".replace("localhost", "127.0.0.1")):
                with pytest.raises(DatabaseUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                    await postgres.connect(wrong, application="test")
        plain = f"{database_url}?sslmode=verify-full&sslrootcert={ours.file}"
        with pytest.raises(DatabaseUnavailable, match="rejected SSL upgrade"):
            await postgres.connect(plain, application="test")

    run(story())


# -------------------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"database_url": "postgresql://u:p@127.0.0.1/a", "nats_url": "nats://[::1]:4222"}, {}),
        ({"database_url": "postgresql:///a?host=/run/pg", "nats_url": "nats://localhost"}, {}),
        ({"database_url": "postgresql://u:p@db/a"}, {"ANLYT_DATABASE_URL": ["db"]}),
        ({"database_url": "postgresql://u:p@a:1,127.0.0.1:2,b/a?sslmode=require"}, {"ANLYT_DATABASE_URL": ["a", "b"]}),
        ({"database_url": "postgresql://u:p@db/a?sslmode=verify-full"}, {}),
        ({"nats_url": "tls://u:p@one:4222,nats://u:p@two:4222"}, {"ANLYT_NATS_URL": ["two"]}),
        ({"nats_url": "nats://u:p@one:4222", "nats_ca_file": "/ca.pem"}, {}),
        ({"nats_url": "nats://u:p@[2001:db8::1]:4222"}, {"ANLYT_NATS_URL": ["2001:db8::1"]}),
        ({"archive_url": "clickhouse://u:p@ch:8123/a"}, {"ANLYT_ARCHIVE_URL": ["ch"]}),
        ({"archive_url": "clickhouses://u:p@ch:8443/a"}, {}),
        ({"archive_url": "chdb:///var/lib/anlyt/archive"}, {}),
    ],
)
def test_addresses_that_can_be_listened_in_on_are_found(given: dict[str, str], found: dict[str, list[str]]) -> None:
    assert credentials.plain_hosts(Settings.model_validate(given)) == found


def test_the_session_of_a_server_of_ours_needs_no_files(nats_server: EmbeddedNats) -> None:
    run(reach(nats_server.url))
