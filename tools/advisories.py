"""Known vulnerabilities of what is locked: asks OSV about each Python package and npm's registry about the client's.

In: requirements.txt, clients/typescript/package-lock.json and audit/waivers.toml. Out: a line for each advisory.
Ends with 0 when there is none but those that a waiver in force names, 1 when there is, or a waiver is over or names
nothing, and 2 when somebody could not be asked about everything: no answer is never a good answer.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sbom import canonical, read_lock

ROOT: Final = Path(__file__).parents[1]
AUDITOR: Final = ROOT / "audit" / ".venv" / "bin" / "pip-audit"
CLIENT: Final = ROOT / "clients" / "typescript"
LIMIT_S: Final = 600
WORDS_MAX: Final = 300  # of what a program that failed said last
REMEDY: Final = (
    "run this where the source can be reached, or name another: "
    "make audit ADVISORIES='--osv-url URL --npm-registry URL'"
)


class Advisory(NamedTuple):
    """A vulnerability that somebody has published about a locked package, under all its names."""

    ids: frozenset[str]
    package: str
    version: str
    remedy: str
    words: str


class Answer(NamedTuple):
    """What a source knows, and what it was not asked or did not say."""

    found: list[Advisory]
    unanswered: list[str]


class Waiver(NamedTuple):
    """An advisory that does not concern us: why, and the last day on which that is believed."""

    id: str
    reason: str
    until: date


# --------------------------------------------------------------------------------------------------------------- pure


def write_rounds(lock: str) -> list[str]:
    """The lock as requirements for every machine, without markers: a package of two versions takes two rounds."""
    rounds: list[dict[str, str]] = []
    for each in read_lock(lock):
        line = " ".join([f"{each.name}=={each.version}", *(f"--hash=sha256:{known}" for known in each.hashes)])
        free = next((one for one in rounds if each.name not in one), None)
        if free is None:
            rounds.append(free := {})
        free[each.name] = line
    return ["\n".join(one.values()) + "\n" for one in rounds]


def read_python(texts: list[str], lock: str) -> Answer:
    """The advisories in pip-audit's JSON of each round, and the packages of the lock that it does not answer for."""
    told: dict[tuple[str, str | None], dict[str, Any]] = {}
    for text in texts:
        try:
            told |= {(canonical(each["name"]), each.get("version")): each for each in json.loads(text)["dependencies"]}
        except (ValueError, KeyError, TypeError):
            return Answer([], [f"all Python packages: {_last_words(text)}"])
    found: list[Advisory] = []
    unanswered: list[str] = []
    for package in read_lock(lock):
        name = canonical(package.name)
        each = told.get((name, package.version))
        if each is None:
            why = told.get((name, None), {}).get("skip_reason", "it was not asked about")
            unanswered.append(f"{package.name} {package.version}: {why}")
            continue
        for known in each["vulns"]:
            ids = frozenset([known["id"], *known["aliases"]])
            mended = ", ".join(known["fix_versions"]) or "no version yet"
            found.append(Advisory(ids, package.name, package.version, f"mended in {mended}", known["description"]))
    return Answer(found, unanswered)


def read_npm(text: str, lock: str) -> Answer:
    """The advisories in the JSON of `npm audit`."""
    try:
        answer = json.loads(text)
        packages: dict[str, Any] = answer["vulnerabilities"]
    except (ValueError, KeyError, TypeError):
        return Answer([], [f"the packages of the TypeScript client: {_last_words(text)}"])
    locked = json.loads(lock)["packages"]
    found = [
        Advisory(
            frozenset([re.sub(r".*/", "", via["url"])]),
            name,
            locked.get(f"node_modules/{name}", {}).get("version", "?"),
            f"affected are {via['range']}",
            via["title"],
        )
        for name, each in packages.items()
        for via in each["via"]
        if not isinstance(via, str)  # a text names another package in this list, whose advisory it is
    ]
    return Answer(found, [])


def read_waivers(text: str) -> list[Waiver]:
    """The waivers of waivers.toml. ValueError for one without a reason or a last day."""
    waivers: list[Waiver] = []
    for each in tomllib.loads(text).get("waiver", []):
        name, reason, until = each.get("id"), each.get("reason"), each.get("until")
        if not (isinstance(name, str) and isinstance(reason, str) and reason and type(until) is date):
            msg = f"a waiver needs id, reason and until (a date like 2027-01-31), but one is {each}"
            raise ValueError(msg)
        waivers.append(Waiver(name, reason, until))
    return waivers


def judge(found: list[Advisory], waivers: list[Waiver], today: date) -> list[str]:
    """What has to be done, a sentence each; nothing when every advisory is waived and every waiver is needed."""
    sentences: list[str] = []
    for each in found:
        names = ", ".join(sorted(each.ids))
        waived = [waiver for waiver in waivers if waiver.id in each.ids]
        if not waived:
            sentences.append(f"{each.package} {each.version}: {names}: {each.words} ({each.remedy})")
        elif all(waiver.until < today for waiver in waived):
            until = max(waiver.until for waiver in waived)
            sentences.append(f"{each.package} {each.version}: {names}: its waiver ended on {until} ({each.remedy})")
    known = {name for each in found for name in each.ids}
    return sentences + [
        f"the waiver of {waiver.id} names no advisory any more; take it out of audit/waivers.toml"
        for waiver in waivers
        if waiver.id not in known
    ]


def _last_words(text: str) -> str:
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = ([line for line in text.splitlines() if line.strip()] or ["no answer"])[-1]
    return str(message).strip()[:WORDS_MAX]


# ----------------------------------------------------------------------------------------------------------- the world


def ask_python(osv_url: str | None) -> Answer:
    """What OSV knows of requirements.txt."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    options = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    options += ["--vulnerability-service", "osv", *(["--osv-url", osv_url] if osv_url else [])]
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        for each in write_rounds(lock):
            file = Path(directory) / "requirements.txt"
            file.write_text(each, encoding="utf-8")
            texts.append(_output([str(AUDITOR), "--requirement", str(file), *options], cwd=ROOT))
    return read_python(texts, lock)


def ask_npm(registry: str | None) -> Answer:
    """What npm's registry knows of the client's lock."""
    npm = shutil.which("npm")
    if npm is None:
        return Answer([], ["the packages of the TypeScript client: npm is not installed (it comes with Node 20)"])
    command = [npm, "audit", "--package-lock-only", "--json", *(["--registry", registry] if registry else [])]
    lock = (CLIENT / "package-lock.json").read_text(encoding="utf-8")
    return read_npm(_output(command, cwd=CLIENT), lock)


def _output(command: list[str], *, cwd: Path) -> str:
    """What a program says: its answer, or what it complained about."""
    try:
        done = subprocess.run(  # noqa: S603 - our own words, and addresses from whoever runs this
            command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S} s"
    return done.stdout if done.stdout.strip() else done.stderr


def main() -> int:
    """Ask both, and say what has to be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv-url", help="where OSV, or a mirror of it, takes queries")
    parser.add_argument("--npm-registry", help="the registry that is asked about npm packages")
    given = parser.parse_args()
    waivers = read_waivers((ROOT / "audit" / "waivers.toml").read_text(encoding="utf-8"))
    python, npm = ask_python(given.osv_url), ask_npm(given.npm_registry)
    for sentence in (sentences := judge(python.found + npm.found, waivers, datetime.now(UTC).date())):
        print(sentence)
    unanswered = python.unanswered + npm.unanswered
    for what in unanswered:
        print(f"not known: {what}", file=sys.stderr)
    if unanswered:
        print(f"not everything could be asked about; {REMEDY}", file=sys.stderr)
    if sentences:
        return 1
    if not unanswered:
        print(f"no advisory for what is locked, beside {len(waivers)} waived")
    return 2 if unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
