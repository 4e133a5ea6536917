"""Running the commands as people do: each in a process of its own, with an environment of the test's making."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from anlyt.settings import Settings

COMMAND_LIMIT_S = 60


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def environment(**variables: str) -> dict[str, str]:
    """Our own without any ANLYT_ variable, and these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANLYT_")}
    return kept | {f"ANLYT_{name.upper()}": value for name, value in variables.items()}


def environment_of(settings: Settings, **variables: str) -> dict[str, str]:
    """The environment that leads to these settings."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    return environment(
        database_url=settings.database_url.get_secret_value(),
        nats_url=settings.nats_url.get_secret_value(),
        stream=settings.stream,
        subjects=settings.subjects,
        data_dir=str(settings.data_dir),
        **variables,
    )


def start(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """A command that runs; its output is read by the caller."""
    command = [sys.executable, "-m", "anlyt", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def anlyt(*arguments: str, env: dict[str, str], stdin: str = "") -> Result:
    """Run a command to its end."""
    command = [sys.executable, "-m", "anlyt", *arguments]
    done = subprocess.run(
        command, env=env, input=stdin, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)
