"""Programs of Debian's packages that tests need: installed where that is possible; else the test is skipped, loudly."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

INSTALL_LIMIT_S: Final = 480
SYSTEM_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def program(name: str, package: str) -> str:
    """The path of a program."""
    need(package, lambda: find(name) is not None)
    path = find(name)
    assert path is not None, "need() has seen it"
    return path


def find(name: str) -> str | None:
    """Where a program is, also one that only root has on its path."""
    return shutil.which(name, path=SYSTEM_PATH)


def need(package: str, found: Callable[[], bool]) -> None:
    """Have what a package brings, installed where we may. Without it the test is skipped, never in CI."""
    if not found() and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
            subprocess.run(
                command,
                check=False,
                timeout=INSTALL_LIMIT_S,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
            )
    if not found():
        reason = f"NOT TRIED: there is no {package} and it could not be installed (apt-get install {package})"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
