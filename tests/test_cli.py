"""The command line: one sentence and the right exit code for what is wrong, one JSON document for what is asked."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog

from anlyt import cli, jetstream
from commands import Result, anlyt, environment_of, start
from support import free_port, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anlyt.embedded import EmbeddedPostgres
    from anlyt.settings import Settings

SECRET = "CANARY"  # noqa: S105 - to be looked for
NOWHERE = {
    "database_url": f"postgresql://anlyt:{SECRET}@127.0.0.1:9/anlyt",
    "nats_url": f"nats://anlyt:{SECRET}@127.0.0.1:9",
}
ACCOUNT = "018f0000-0000-7000-8000-000000000001"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Any]:
    """A command run within this process: quicker, for what never gets as far as a server."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)

    def command(*arguments: str, **variables: str) -> Result:
        for name in [name for name in os.environ if name.startswith("ANLYT_")]:
            monkeypatch.delenv(name)
        for name, value in ({"data_dir": str(tmp_path)} | variables).items():
            monkeypatch.setenv(f"ANLYT_{name.upper()}", value)
        capfd.readouterr()
        code = cli.run(cli.app, list(arguments))
        return Result(code, *capfd.readouterr())

    yield command
    root.handlers[:], root.level = before  # the command's own writes to this test's stderr
    structlog.reset_defaults()


def is_a_sentence(result: Result) -> bool:
    """One line on stderr, nothing on stdout, no secret, no traceback."""
    lines = result.err.strip().splitlines()
    return result.out == "" and len(lines) == 1 and lines[0].startswith("anlyt: ") and SECRET not in result.err


# --------------------------------------------------------------------------------------------------------- wrong words


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--set http_port doctor", "--set takes NAME=VALUE"),
        ("jobs run nope", "there is no job 'nope'; the jobs are percentiles"),
        ("events simulate --duration soon", "--duration must be a number and a unit"),
        ("events simulate --duration 0s", "duration must be more than nothing"),
        ("events simulate --rate 0", "rate must be from 0.001"),
        ("events simulate --duplicates 2", "duplicates must be from 0 to 0.5"),
        ("events simulate --fast", "--fast needs --duration"),
        ("events simulate --fast --duration 48h", "at most 47 h, because older events are stale; .* --history"),
        ("events simulate --history 3d --duration 1h", "--history .* takes neither --duration nor --fast"),
        ("events simulate --history 200d", "at most 89 days"),
        ("events publish /nonexistent", "/nonexistent cannot be read: No such file"),
        ("events publish /", "/ cannot be read: Is a directory"),
        ("query hourly --scope NOPE", "scope is 'NOPE', but must be one of"),
        ("query hourly --from yesterday", "from is 'yesterday', but must be a time like"),
        ("query hourly --limit 0", "limit is '0', but must be a whole number from 1"),
        ("query accounts --scope ACCOUNT", "'scope' is not a parameter of this route"),
        ("query accounts --cursor x", "this cursor does not belong to this question"),
        ("query accounts --json --csv", "take one of --json and --csv"),
        ("migrate --sql --json", "--sql prints a script"),
        ("dead-letters list --reason x", "'x' is not a reason; the reasons are too_large"),
        ("keys create --scope NOPE", "the scope is 'NOPE', but must be one of"),
        ("keys create --scope ACCOUNT", "needs 1 to 100 ids"),
        ("keys create --scope ACCOUNT --id x", "the id 'x' .* must be a UUID"),
        ("keys create --scope PLATFORM --permission x", "must be some of metrics:read"),
        ("keys create --scope PLATFORM --expires 0s", "--expires must be more than 0s"),
    ],
)
def test_words_that_make_no_sense_are_told_in_a_sentence(inside: Any, command: str, said: str) -> None:
    result = inside(*command.split(), **NOWHERE)

    assert result.code == 2
    assert is_a_sentence(result), result.err
    assert re.search(said, result.err), result.err


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "worker --nonsense",
        "dead-letters show x",
        "dead-letters show 0",
        f"dead-letters show {2**63}",
        f"dead-letters show 1 {2**31}",
        "worker --metrics-port 99999",
    ],
)
def test_what_is_no_command_option_or_number_says_whose_help_to_read(inside: Any, command: str) -> None:
    result = inside(*command.split(), **NOWHERE)

    assert result.code == 2
    assert is_a_sentence(result), result.err
    assert re.search(r"; see: anlyt[a-z -]* --help$", result.err), result.err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"http_prot": "1"}, "ANLYT_HTTP_PROT is not a setting of anlyt; did you mean ANLYT_HTTP_PORT?"),
        ({"http_port": "99999"}, "ANLYT_HTTP_PORT is '99999', but"),
        ({"database_url": f"mysql://anlyt:{SECRET}@127.0.0.1/x"}, "ANLYT_DATABASE_URL is not an address like"),
        ({"config": "/nonexistent.toml"}, "the settings file /nonexistent.toml cannot be read"),
        ({"database_url": ""}, "ANLYT_DATABASE_URL is not set, and no embedded servers run in .*anlyt up"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_starts(inside: Any, variables: dict[str, str], said: str) -> None:
    result = inside("query", "hourly", **NOWHERE | variables)

    assert result.code == 3
    assert is_a_sentence(result), result.err
    assert re.search(said, result.err), result.err


def test_a_settings_file_whose_password_others_may_read_is_told(inside: Any, tmp_path: Path) -> None:
    file = tmp_path / "anlyt.toml"
    file.write_text(f'database_url = "{NOWHERE["database_url"]}"')
    file.chmod(0o644)
    result = inside("jobs", "list", config=str(file), nats_url=NOWHERE["nats_url"])
    told, error = result.err.splitlines()

    assert told == f"{file} holds a secret, and others may read it; run: chmod 600 {file}"
    assert (result.code, SECRET in result.err) == (4, False)
    assert "127.0.0.1:9" in error


def test_an_unknown_name_of_set_is_told(inside: Any) -> None:
    result = inside("--set", "http_prot=1", "query", "hourly", **NOWHERE)

    assert (result.code, is_a_sentence(result)) == (3, True), result.err
    assert "http_prot is not a setting of anlyt; did you mean http_port?" in result.err


@pytest.mark.parametrize(
    "command",
    [
        "api",
        "dead-letters list",
        "events publish /dev/null",
        "events simulate --duration 1s",
        "jobs list",
        "jobs run purge",
        "keys list",
        "migrate",
        "query hourly",
        "reconcile",
        "up",
        "worker --until-idle",
    ],
)
def test_a_server_that_is_away_ends_a_command_soon(inside: Any, command: str) -> None:
    result = inside(*command.split(), **NOWHERE, http_port="0")

    assert result.code == 4
    assert is_a_sentence(result), result.err
    assert "127.0.0.1:9" in result.err
    assert re.search("check ANLYT_(DATABASE|NATS)_URL and that the server is running", result.err)


def test_the_archive_is_told_to_be_missing(inside: Any) -> None:
    result = inside("jobs", "run", "archive", **NOWHERE)

    assert (result.code, result.out) == (3, "")
    assert "there is no archive: set ANLYT_ARCHIVE_URL" in result.err


def test_a_database_without_the_schema_says_what_to_run(postgres_server: EmbeddedPostgres, inside: Any) -> None:
    empty = postgres_server.url.removesuffix("/anlyt") + "/anlyt"
    result = inside("jobs", "list", database_url=empty, nats_url=NOWHERE["nats_url"])

    assert (result.code, is_a_sentence(result)) == (3, True), result.err
    assert "run: anlyt migrate" in result.err


def test_the_version_is_that_of_the_package(inside: Any) -> None:
    result = inside("--version")

    assert (result.code, result.out, result.err) == (0, f"anlyt {metadata.version('anlyt')}\n", "")


def test_help_answers_without_loading_what_commands_need() -> None:
    """Some 0.2 s; a test of the time itself would tell how busy the machine is."""
    program = (
        "import sys; from anlyt import cli; cli.run(cli.app, ['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Start with: anlyt up --demo" in done.stdout
    assert not {"asyncpg", "fastapi", "nats", "pydantic", "structlog", "uvicorn", "uvloop"} & set(done.stderr.split())


@pytest.mark.parametrize(
    "group", ["", "dead-letters", "events", "jobs", "keys", "query"], ids=lambda group: group or "anlyt"
)
def test_a_group_without_a_command_shows_its_help(inside: Any, group: str) -> None:
    result = inside(*group.split())

    assert "Usage: anlyt" in result.out + result.err


# ----------------------------------------------------------------------------------------------------- what they answer


def test_what_is_simulated_is_counted_and_every_command_agrees(settings: Settings) -> None:
    env = environment_of(settings)
    made = anlyt("events", "simulate", "--fast", "--duration", "10m", "--rate", "5", "--json", env=env).document
    counted = anlyt("worker", "--until-idle", "--json", env=env).document
    anlyt("jobs", "run", "percentiles", "--json", env=env)
    daily = anlyt("query", "daily", "--scope", "PLATFORM", "--from", "-2d", "--json", env=env).document
    letters = anlyt("dead-letters", "list", "--limit", "10000", "--json", env=env).document
    operators = anlyt("query", "operators", "--from", "-2h", "--json", env=env).document

    assert counted == {
        "counted": made["events"],
        "duplicate": made["duplicates"],
        "dead_letter": sum(made["bad"].values()),
        "ignored": 0,
    }
    assert made["duplicates"]
    assert len(letters) == counted["dead_letter"]
    assert sum(row["totalMessages"] for row in daily["data"]) > made["events"] / 3
    assert any(row["latencyP95Ms"] for row in operators["data"])
    assert anlyt("worker", "--until-idle", "--json", env=env).document["counted"] == 0


def event(number: int) -> str:
    data = {"messageId": f"m{number}", "accountId": ACCOUNT}
    head = {"specversion": "1.0", "id": f"e{number}", "source": "/test", "type": "message.submitted"}
    return json.dumps(head | {"time": datetime.now(UTC).isoformat(), "data": data})


def test_a_file_of_events_may_be_published_again_from_a_pipe(settings: Settings, tmp_path: Path) -> None:
    env = environment_of(settings)
    lines = "\r\n".join([event(1), "", f"[{event(2)},{event(1)}]", "this is no event", event(3)])
    file = tmp_path / "events.ndjson"
    file.write_text(lines, encoding="utf-8")
    first = anlyt("events", "publish", str(file), "--json", env=env).document
    again = anlyt("events", "publish", "-", "--json", env=env, stdin=lines).document

    assert first == {"stored": 4, "known": 0}
    assert again == {"stored": 2, "known": 2}  # an array and what is no event have no id of their own
    assert anlyt("worker", "--until-idle", "--json", env=env).document == {
        "counted": 3,
        "duplicate": 3,
        "dead_letter": 2,
        "ignored": 0,
    }


def test_a_line_too_long_for_the_server_is_named(settings: Settings) -> None:
    result = anlyt("events", "publish", "-", env=environment_of(settings), stdin=event(1) + "\n" + "x" * 9_000_000)

    assert (result.code, is_a_sentence(result)) == (2, True), result.err
    assert "line 2 has more than" in result.err


def test_a_slow_pipe_is_published_as_it_comes_and_ctrl_c_says_what_is_there(settings: Settings) -> None:
    command = [sys.executable, "-m", "anlyt", "events", "publish", "-", "--json"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment_of(settings), text=True, **pipes) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(event(1) + "\n" + event(2) + "\n")
            process.stdin.flush()
            run(until_messages(settings, 2))  # though the pipe is open, and no thousand of them is there
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()

    assert process.returncode == 130
    assert json.loads(out) == {"stored": 2, "known": 0}
    assert (
        err == "stopped before the end of the events; publish the same again, what is there already is counted once\n"
    )


def test_a_closed_standard_input_is_told(settings: Settings) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec '{sys.executable}' -m anlyt events publish - <&-"],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (2, "anlyt: there is nothing to read: the standard input is closed\n")


def test_traffic_that_is_interrupted_says_exactly_what_it_published(settings: Settings) -> None:
    env = environment_of(settings)
    process = start("events", "simulate", "--rate", "300", "--json", env=env)
    try:
        run(until_messages(settings, 100))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    made = json.loads(out)
    counted = anlyt("worker", "--until-idle", "--json", env=env).document

    assert (process.returncode, err) == (0, "")
    assert counted["counted"] == made["events"]
    assert counted["duplicate"] == made["duplicates"]
    assert counted["dead_letter"] == sum(made["bad"].values())


def test_history_that_is_interrupted_says_exactly_what_it_published(settings: Settings) -> None:
    env = environment_of(settings)
    process = start("events", "simulate", "--history", "89d", "--rate", "50", "--json", env=env)
    try:
        run(until_messages(settings, 2_000))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode == 0
    assert json.loads(out)["messages"] == run(messages(settings))


def test_keys_are_made_listed_and_revoked(settings: Settings) -> None:
    env = environment_of(settings)
    made = anlyt(
        "keys", "create", "--scope", "account", "--id", ACCOUNT, "--name", "portal", "--json", env=env
    ).document
    listed = anlyt("keys", "list", "--json", env=env).document
    table = anlyt("keys", "list", env=env)
    revoked = anlyt("keys", "revoke", made["key_id"], "--json", env=env).document
    unknown = anlyt("keys", "revoke", "nope", env=env)

    assert made["key"].startswith("anlyt_")
    assert [(key["key_id"], key["scope"], key["scope_ids"]) for key in listed] == [
        (made["key_id"], "ACCOUNT", [ACCOUNT])
    ]
    assert ACCOUNT in table.out
    assert made["key"] not in table.out + json.dumps(listed)
    assert revoked["key_id"] == made["key_id"]
    assert (unknown.code, is_a_sentence(unknown)) == (2, True), unknown.err


def test_a_reader_that_goes_away_is_no_error(settings: Settings) -> None:
    with start("migrate", "--sql", env=environment_of(settings)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")


def test_a_worker_serves_its_metrics_until_it_is_told_to_stop(settings: Settings) -> None:
    port = free_port()
    process = start("worker", "--metrics-port", str(port), "--json", env=environment_of(settings))
    try:

        async def served() -> str:
            async with httpx2.AsyncClient() as client:
                with contextlib.suppress(httpx2.ConnectError):
                    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                    return text if 'anlyt_partition_owned{partition="all"} 1.0' in text else ""
            return ""

        run(wait_until(served, 20))
        process.terminate()
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode == 0
    assert json.loads(out)["counted"] == 0


async def messages(settings: Settings) -> int:
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="test")
    try:
        return (await jetstream.stream_info(nc, settings.stream)).last_seq
    except jetstream.JetStreamError:
        return 0  # nobody has made it yet
    finally:
        await nc.close()


async def until_messages(settings: Settings, number: int) -> None:
    async def there() -> bool:
        return await messages(settings) >= number

    await wait_until(there, 30)
