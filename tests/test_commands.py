"""What holds for every command, found by walking through all of them: help, examples, JSON, errors, completion."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import typer

from anlyt import cli
from anlyt.access import PERMISSIONS, SCOPES
from anlyt.jobs import JOBS
from anlyt.letters import REASONS
from anlyt.queries import LETTER_STATES
from commands import anlyt, environment, environment_of
from pipeline import database, submitted
from support import run, wait_until
from terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anlyt.settings import Settings

PRINT_NO_DATA = {"api", "jobs loop"}  # they serve until they are stopped
LINE_CHARS_MAX = 80


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its path."""
    todo: list[tuple[str, Any]] = [("", typer.main.get_command(cli.app))]
    while todo:
        path, command = todo.pop()
        if hasattr(command, "commands"):
            todo += [(f"{path} {name}".strip(), child) for name, child in command.commands.items()]
        else:
            yield path, command


COMMANDS = dict(sorted(commands()))


def help_of(path: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(cli.app, [*path.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_says_what_a_command_does_and_shows_examples_that_are_right(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(LINE_CHARS_MAX))
    text = help_of(path, capsys)
    command = COMMANDS[path]
    examples = re.findall(r"Example: (.*?)(?=\n\n)", text, re.DOTALL)

    assert text.startswith(f"Usage: anlyt {path} ")
    assert max(map(len, text.splitlines())) <= LINE_CHARS_MAX
    assert examples
    for example in (" ".join(found.split()) for found in examples):
        called = re.search(rf"\banlyt (?:--set \S+ )?{path}\b(.*)", example)
        assert called, example
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", called[1])) <= known, example


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_and_argument_has_its_meaning(path: str) -> None:
    parameters = [parameter for parameter in COMMANDS[path].params if parameter.name != "help"]

    assert [parameter.name for parameter in parameters if not parameter.help] == []


@pytest.mark.parametrize("path", sorted(set(COMMANDS) - PRINT_NO_DATA))
def test_whatever_prints_data_prints_it_as_json_too(path: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[path].params for option in parameter.opts}


@pytest.mark.parametrize("path", COMMANDS)
def test_a_wrong_option_is_a_sentence_and_exit_code_2(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(cli.app, [*path.split(), "--no-such-option"])
    out, err = capsys.readouterr()

    assert (code, out) == (2, "")
    assert err == f"anlyt: no such option: --no-such-option; see: anlyt {path} --help\n"


def test_the_first_lines_of_the_list_of_commands_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(LINE_CHARS_MAX))
    groups = {path.rpartition(" ")[0] for path in COMMANDS}

    for group in groups:
        assert "..." not in help_of(group, capsys).partition("Commands:")[2], group


# ---------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("anlyt jobs run ", [job.name for job in JOBS]),
        ("anlyt jobs run per", ["percentiles"]),
        ("anlyt dead-letters list --reason ", list(REASONS)),
        ("anlyt dead-letters retry --reason st", ["stale"]),
        ("anlyt dead-letters list --state ", list(LETTER_STATES)),
        ("anlyt keys create --scope ", list(SCOPES)),
        ("anlyt keys create --scope ACC", ["ACCOUNT"]),
        ("anlyt keys create --permission ", list(PERMISSIONS)),
        ("anlyt query hourly --scope OP", ["OPERATOR"]),
        ("anlyt query summary --group-by ", ["none", "scopeId", "hour", "day", "month"]),
        ("anlyt query summary --sort total", ["totalMessages", "totalCost"]),
        ("anlyt export ", ["hourly", "daily", "operators", "accounts"]),
        ("anlyt top --sort ", ["delivery", "failed", "latency", "rate"]),
        ("anlyt dead", ["dead-letters"]),
    ],
)
def test_the_shell_completes_names(line: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
    done = subprocess.run(
        [sys.executable, "-c", "from anlyt.cli import main; import sys; sys.argv[0] = 'anlyt'; main()"],
        env=environment() | words | {"_ANLYT_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anlyt", "--show-completion", shell],
        env=environment() | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # the tests may run under none
        capture_output=True,
        text=True,
        check=True,
    )

    assert "_ANLYT_COMPLETE" in done.stdout


# ------------------------------------------------------------------------------------------------------------ terminals


@pytest.fixture
def counted(settings: Settings) -> dict[str, str]:
    """The environment of a deployment with ten minutes of traffic."""
    env = environment_of(settings)
    anlyt("events", "simulate", "--fast", "--duration", "10m", "--rate", "2", env=env)
    assert anlyt("worker", "--until-idle", env=env).code == 0
    return env


def test_no_color_is_respected_and_a_file_gets_none(counted: dict[str, str]) -> None:
    with Terminal("query", "hourly", "--scope", "OPERATOR", env=counted | {"NO_COLOR": "1"}, columns=200) as terminal:
        assert terminal.wait() == 0
        plain = terminal.text
    with Terminal("query", "hourly", "--scope", "OPERATOR", env=counted, columns=200) as terminal:
        assert terminal.wait() == 0
        coloured = terminal.text
    piped = anlyt("query", "hourly", "--scope", "OPERATOR", env=counted)

    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)
    assert re.search(r"\x1b\[36m█+", coloured)  # bars
    assert "\x1b" not in piped.out + piped.err


def test_a_question_is_asked_in_a_terminal_and_no_or_ctrl_c_changes_nothing(settings: Settings) -> None:
    env = environment_of(settings)
    anlyt("events", "publish", "-", env=env, stdin="this is no event")
    anlyt("worker", "--until-idle", env=env)
    with Terminal("dead-letters", "discard", "--all", env=env) as terminal:
        terminal.wait_for(lambda: "for good. Go on? [y/N]" in terminal.text)
        terminal.press("n\n")
        assert terminal.wait() == 130
        assert "stopped" in terminal.text
    with Terminal("dead-letters", "discard", "--all", env=env) as terminal:
        terminal.wait_for(lambda: "for good. Go on? [y/N]" in terminal.text)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
    refused = anlyt("dead-letters", "discard", "--all", env=env)
    kept = anlyt("dead-letters", "list", "--json", env=env).document
    with Terminal("dead-letters", "discard", "--all", env=env) as terminal:
        terminal.wait_for(lambda: "Go on?" in terminal.text)
        terminal.press("y\n")
        assert terminal.wait() == 0

    assert refused.code == 2
    assert "add --yes" in refused.err
    assert len(kept) == 1
    assert anlyt("dead-letters", "list", "--json", env=env).document == []


def test_a_key_is_revoked_after_a_question_in_a_terminal_only(settings: Settings) -> None:
    env = environment_of(settings)
    made = anlyt("keys", "create", "--scope", "PLATFORM", "--json", env=env).document
    with Terminal("keys", "revoke", made["key_id"], env=env) as terminal:
        terminal.wait_for(lambda: "Go on?" in terminal.text)
        terminal.press("n\n")
        assert terminal.wait() == 130
    listed = anlyt("keys", "list", "--json", env=env).document

    assert [key["revoked_at"] for key in listed] == [None]
    assert anlyt("keys", "revoke", made["key_id"], env=env).code == 0


def test_long_work_shows_a_bar_in_a_terminal_that_goes_away(settings: Settings) -> None:
    words = ["events", "simulate", "--rate", "200", "--duration", "3s"]
    with Terminal(*words, env=environment_of(settings), columns=100) as terminal:
        terminal.wait_for(lambda: re.search(r"publishing .* messages .*/s", terminal.text))
        assert terminal.wait() == 0
        last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", terminal.text).splitlines()[-1]

    assert re.search(r"published [\d,]+ events", last)


@pytest.mark.parametrize("columns", [40, 80])
def test_sentences_are_broken_between_words_in_a_terminal(settings: Settings, columns: int) -> None:
    with Terminal("jobs", "run", "nope", env=environment_of(settings), columns=columns) as terminal:
        assert terminal.wait() == 2
        lines = terminal.text.split("\r\n")

    assert max(map(len, lines)) <= columns
    assert " ".join(lines).split()[:6] == ["anlyt:", "there", "is", "no", "job", "'nope';"]


def test_ctrl_c_in_the_middle_is_told_without_a_traceback(counted: dict[str, str]) -> None:
    """Where nothing is half done there is nothing else to tell."""
    with Terminal("worker", env=counted) as terminal:
        terminal.wait_for(lambda: "partition-owned" in terminal.text)
        os.kill(terminal.process.pid, signal.SIGINT)

        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text


TABLES = ["processed_events", "metrics_hourly", "metrics_daily", "latency_histograms"]
LONG_WORK = {
    ("worker", "--until-idle"): r"counting .* 0 of [1-9][\d,]* messages",
    ("reconcile",): r"reconciling .* 0 of 6 identities|reconciling .* 0 identities",
    ("export", "daily", "--from", "-7d"): r"exporting .* 0 rows",
    ("jobs", "run", "percentiles"): r"merging histograms .* 0 segments",
    ("jobs", "run", "purge"): r"forgetting ids .* 0 ids",
    ("jobs", "run", "retention"): r"deleting days .* 0 rows",
    ("dead-letters", "retry", "--reason", "currency_mismatch"): r"judging again .* 0 of 1 letters",
}


def test_work_that_lasts_has_a_bar_in_a_terminal_and_none_with_json(settings: Settings, tmp_path: Path) -> None:
    """The tables are locked meanwhile, so that everything lasts as long as the test wants."""
    env = environment_of(settings)
    other_money = submitted(datetime.now(UTC), cost="1", currency="USD").decode()
    anlyt("events", "publish", "-", env=env, stdin=other_money)
    anlyt("worker", "--until-idle", env=env)
    anlyt("events", "simulate", "--fast", "--duration", "10m", "--rate", "2", env=env)
    put_right = env | {"ANLYT_CURRENCY": "USD"}  # what the letter waits for
    more = {"export": ["--output", str(tmp_path / "days.csv")]}

    async def story() -> None:
        async with AsyncExitStack() as stack:
            conn = await stack.enter_async_context(database(settings))
            locked = conn.transaction()
            await locked.start()
            await conn.execute(f"LOCK TABLE {', '.join(f'anlyt.{table}' for table in TABLES)}")
            quiet = stack.enter_context(Terminal("reconcile", "--json", env=env))
            terminals = {
                words: stack.enter_context(
                    Terminal(*words, *more.get(words[0], []), env=put_right if "retry" in words else env, columns=100)
                )
                for words in LONG_WORK
            }
            for words, terminal in terminals.items():
                await wait_until(lambda t=terminal, w=words: re.search(LONG_WORK[w], t.text), 60, what=" ".join(words))

            assert quiet.text == ""
            await locked.rollback()
            for words, terminal in terminals.items():
                await wait_until(lambda t=terminal: t.text and t.process.poll() is not None, 60, what=" ".join(words))
                assert terminal.process.returncode == 0, terminal.text
            await wait_until(lambda: quiet.text and quiet.process.poll() is not None, 60, what="reconcile --json")
            assert all(finding["differences"] == 0 for finding in json.loads(quiet.text))

    run(story(), limit_s=110)
