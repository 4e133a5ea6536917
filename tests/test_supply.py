"""What is installed is what was locked: every package pinned with hashes, one flipped digit refused, a true bill."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import sbom

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.txt").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_lock_has_hashes_and_comes_from_no_address() -> None:
    packages = sbom.read_lock(LOCK)

    assert len(packages) == len(re.findall(r"^[a-z0-9]", LOCK, re.MULTILINE))
    assert [package.name for package in packages if not package.hashes] == []
    assert re.findall(r"https?://|git\+|@ file|--index|--trusted", LOCK) == []


@pytest.mark.parametrize("line", ["demo>=1", "demo", "demo @ https://example.com/demo.whl", "-e .", "--index-url x"])
def test_a_line_that_pins_nothing_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no pinned package"):
        sbom.read_lock(f"first==1 \\\n    --hash=sha256:{'0' * 64}\n{line}\n")


def test_the_bill_lists_every_locked_package_and_nothing_else() -> None:
    made = sbom.document(LOCK, PROJECT)
    listed = {(each["name"], each["version"], len(each["hashes"])) for each in made["components"]}
    dependencies = {sbom.canonical(each) for each in PROJECT["project"]["dependencies"]}
    required = {each["name"] for each in made["components"] if each["scope"] == "required"}

    assert listed == {(each.name, each.version, len(each.hashes)) for each in sbom.read_lock(LOCK)}
    assert dependencies <= required
    assert {"pytest", "ruff", "hypothesis", "playwright"} & required == set()
    assert len({each["bom-ref"] for each in made["components"]}) == len(made["components"])
    assert json.dumps(made) == json.dumps(sbom.document(LOCK, PROJECT))


def test_another_lock_is_another_bill() -> None:
    changed = sbom.document(LOCK.replace("asyncpg==", "asyncpg==9"), PROJECT)

    assert changed["serialNumber"] != sbom.document(LOCK, PROJECT)["serialNumber"]


def test_what_is_installed_is_what_was_locked() -> None:
    assert sbom.differences(LOCK) == []
    assert sbom.differences(LOCK.replace("msgspec==", "msgspec==9")) != []


def wheel(directory: Path) -> str:
    """A package that holds nothing; its hash."""
    path = directory / "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("demo.py", "")
        file.writestr("demo-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
        file.writestr("demo-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("demo-1.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(directory: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Install one line with the options make setup installs the lock with."""
    options = re.search(r"pip install (.*?) -r requirements\.txt", MAKEFILE)
    assert options is not None
    requirements = directory / "requirements.txt"
    requirements.write_text(line + "\n")
    where = ["--no-index", "--find-links", str(directory), "--target", str(directory / "site"), "-r", str(requirements)]
    command = [sys.executable, "-m", "pip", "install", *options[1].split(), *where]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_one_flipped_digit_of_a_hash_stops_the_installation(tmp_path: Path) -> None:
    good = wheel(tmp_path)
    flipped = f"{int(good[0], 16) ^ 1:x}{good[1:]}"

    refused, unpinned = install(tmp_path, f"demo==1 --hash=sha256:{flipped}"), install(tmp_path, "demo==1")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert unpinned.returncode != 0
    assert not (tmp_path / "site").exists()
    assert install(tmp_path, f"demo==1 --hash=sha256:{good}").returncode == 0
    assert (tmp_path / "site" / "demo.py").exists()
