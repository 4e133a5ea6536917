"""make audit: what pip-audit and npm say, made into what has to be done; no answer is never a good answer."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

import advisories
import sbom
from advisories import Advisory, Waiver, judge, read_npm, read_python, read_waivers, write_rounds

ROOT = Path(__file__).parents[1]
HASH = f"--hash=sha256:{'0' * 64}"
LOCK = f"""\
good==1.0 \\
    {HASH}
bad_one==2.0 ; sys_platform == 'win32' \\
    {HASH}
    # via good
two==1.0 ; python_version < '3.12' \\
    {HASH}
two==2.0 ; python_version >= '3.12' \\
    {HASH}
"""
TODAY = date(2026, 11, 23)
# What pip-audit 2.10.1 writes, and npm 11: about a package with an advisory, without one, and one it did not find.
KNOWN = {"id": "CVE-2026-1", "fix_versions": ["2.1"], "aliases": ["GHSA-a"], "description": "reads too far"}
FIRST = {
    "dependencies": [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad-one", "version": "2.0", "vulns": [KNOWN]},
        {"name": "two", "version": "1.0", "vulns": []},
    ],
    "fixes": [],
}
SECOND = {"dependencies": [{"name": "two", "version": "2.0", "vulns": []}], "fixes": []}
SKIPPED = {"dependencies": [{"name": "two", "skip_reason": "Dependency not found"}], "fixes": []}
FOUND = Advisory(frozenset({"CVE-2026-1", "GHSA-a"}), "bad_one", "2.0", "mended in 2.1", "reads too far")
NPM_LOCK = json.dumps({"packages": {"": {}, "node_modules/typescript": {"version": "5.9.3"}}})
NPM_VIA = {"title": "runs code", "url": "https://github.com/advisories/GHSA-b", "range": "<6.0.0", "severity": "high"}
NPM = {"vulnerabilities": {"typescript": {"via": [NPM_VIA]}, "above": {"via": ["typescript"]}}, "metadata": {}}


def test_every_package_of_the_lock_is_asked_about_whatever_machine_it_is_for() -> None:
    first, second = write_rounds(LOCK)
    lines = [line for each in write_rounds((ROOT / "requirements.txt").read_text()) for line in each.splitlines()]
    locked = sbom.read_lock((ROOT / "requirements.txt").read_text())

    assert first.splitlines() == [f"good==1.0 {HASH}", f"bad_one==2.0 {HASH}", f"two==1.0 {HASH}"]
    assert second.splitlines() == [f"two==2.0 {HASH}"]
    assert sorted(line.partition(" ")[0] for line in lines) == sorted(f"{each.name}=={each.version}" for each in locked)


def test_an_advisory_is_read_with_all_its_names() -> None:
    assert read_python([json.dumps(FIRST), json.dumps(SECOND)], LOCK) == ([FOUND], [])
    assert read_npm(json.dumps(NPM), NPM_LOCK) == (
        [Advisory(frozenset({"GHSA-b"}), "typescript", "5.9.3", "affected are <6.0.0", "runs code")],
        [],
    )
    assert read_npm(json.dumps({"vulnerabilities": {}}), NPM_LOCK) == ([], [])


def test_a_package_that_was_not_answered_for_is_named() -> None:
    assert read_python([json.dumps(FIRST)], LOCK).unanswered == ["two 2.0: it was not asked about"]
    assert read_python([json.dumps(FIRST), json.dumps(SKIPPED)], LOCK).unanswered == ["two 2.0: Dependency not found"]


@pytest.mark.parametrize(
    "text", ["", "Traceback\nConnectionError: no such host\n", "[]", "{}", "null", '{"message": "405"}']
)
def test_a_source_that_does_not_answer_is_no_good_news(text: str) -> None:
    for answer in (read_python([text], LOCK), read_npm(text, NPM_LOCK)):
        (told,) = answer.unanswered

        assert answer.found == []
        assert told.endswith(("no answer", "no such host", "[]", "{}", "null", "405"))


@pytest.mark.parametrize(
    ("waivers", "said"),
    [
        ([], ["bad_one 2.0: CVE-2026-1, GHSA-a: reads too far (mended in 2.1)"]),
        ([Waiver("GHSA-a", "not used", TODAY)], []),
        ([Waiver("CVE-2026-1", "not used", date(2026, 11, 22))], ["its waiver ended on 2026-11-22"]),
        ([Waiver("GHSA-a", "a", TODAY), Waiver("GHSA-c", "b", TODAY)], ["the waiver of GHSA-c names no advisory"]),
    ],
)
def test_an_advisory_stands_until_it_is_waived_and_a_waiver_until_its_day(
    waivers: list[Waiver], said: list[str]
) -> None:
    sentences = judge([FOUND], waivers, TODAY)

    assert len(sentences) == len(said)
    for sentence, part in zip(sentences, said, strict=True):
        assert part in sentence


WAIVER = {"id": '"a"', "reason": '"b"', "until": "2027-01-31"}


@pytest.mark.parametrize(
    "changed", [{"id": "1"}, {"reason": '""'}, {"until": '"2027"'}, {"until": "2027-01-31T00:00:00Z"}]
)
def test_a_waiver_has_a_reason_and_a_last_day(changed: dict[str, str]) -> None:
    def text(members: dict[str, str]) -> str:
        return "\n".join(["[[waiver]]", *(f"{name} = {value}" for name, value in members.items())])

    assert read_waivers(text(WAIVER)) == [Waiver("a", "b", date(2027, 1, 31))]
    (left_out,) = changed
    for members in (WAIVER | changed, {name: value for name, value in WAIVER.items() if name != left_out}):
        with pytest.raises(ValueError, match="a waiver needs id, reason and until"):
            read_waivers(text(members))


def test_the_waivers_that_are_kept_can_be_read() -> None:
    text = (ROOT / "audit" / "waivers.toml").read_text(encoding="utf-8")
    example = "\n".join(line.removeprefix("# ") for line in text.partition("#\n")[2].splitlines())

    read_waivers(text)
    assert [waiver.id for waiver in read_waivers(example)] == ["GHSA-xxxx-xxxx-xxxx"]


def test_the_auditor_is_pinned_by_its_hashes() -> None:
    pinned = sbom.read_lock((advisories.ROOT / "audit" / "requirements.txt").read_text(encoding="utf-8"))

    assert "pip-audit" in {each.name for each in pinned}
    assert [each.name for each in pinned if not each.hashes] == []
