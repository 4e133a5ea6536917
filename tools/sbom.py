"""The bill of materials: every package of the lock as CycloneDX JSON, with its hashes; make sbom.

In: requirements.txt and pyproject.toml. Out: one document, the same for the same lock to the byte. What only
development needs has the scope `excluded`. Run with --check it writes nothing and ends with 1 when a package is
installed in another version than the lock's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
SPEC_VERSION: Final = "1.6"
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_EXTRAS: Final = re.compile(r"[A-Za-z0-9._-]+\s*\[([^\]]*)\]")
_EXTRA_MARKER: Final = re.compile(r"extra\s*==\s*[\"']([^\"']*)[\"']")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Package(NamedTuple):
    """One pinned package; `marker` says on which machines it is installed, empty for all."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def read_lock(text: str) -> list[Package]:
    """The packages of a requirements file with hashes. ValueError for a line that is neither."""
    found: list[tuple[str, str, str, list[str]]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        hashes = _HASH.findall(stripped)
        pin = _PIN.match(stripped)
        if pin is not None:
            found.append((pin[1], pin[2], (pin[3] or "").strip(), []))
        elif hashes and found:
            found[-1][3].extend(hashes)
        else:
            msg = f"this line of the lock is no pinned package and no hash: {stripped}"
            raise ValueError(msg)
    return [Package(name, version, marker, tuple(hashes)) for name, version, marker, hashes in found]


def needed_at_runtime(project: dict[str, Any]) -> frozenset[str]:
    """Names of all packages that the project with all its extras installs, by what the installed ones say."""
    extras = project["optional-dependencies"].values()
    wanted: list[str] = [*project["dependencies"], *(each for extra in extras for each in extra)]
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonical(requirement)
        for extra in ["", *_extras(requirement)]:
            if (name, extra) not in seen:
                seen.add((name, extra))
                wanted += _requires(name, extra)
    return frozenset(name for name, _ in seen)


def _extras(requirement: str) -> list[str]:
    found = _EXTRAS.match(requirement)
    return [each.strip() for each in found[1].split(",")] if found else []


def _requires(name: str, extra: str) -> list[str]:
    """What a package asks for, by itself or for one of its extras; nothing for one that is not for this machine."""
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    return [each for each in requirements if (_EXTRA_MARKER.findall(each) or [""])[0] == extra]


def canonical(requirement: str) -> str:
    """The name in a requirement, as an index spells it."""
    name = _NAME.match(requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def document(lock: str, pyproject: dict[str, Any]) -> dict[str, Any]:
    """The bill of materials of a lock."""
    project = pyproject["project"]
    runtime = needed_at_runtime(project)
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    packages = sorted(read_lock(lock))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(lock.encode()).hexdigest())}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": [_component(package, runtime=package.name in runtime) for package in packages],
        "dependencies": [{"ref": own, "dependsOn": sorted(_purl(each) for each in packages if each.name in runtime)}],
    }


def _component(package: Package, *, runtime: bool) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "scope": "required" if runtime else "excluded",
        "purl": _purl(package),
        "hashes": [{"alg": "SHA-256", "content": each} for each in package.hashes],
    }
    if package.marker:
        component["properties"] = [{"name": "anlyt:marker", "value": package.marker}]
    return component


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def differences(lock: str) -> list[str]:
    """Packages of the lock that are installed here in another version."""
    pinned: dict[str, set[str]] = {}
    for package in read_lock(lock):
        pinned.setdefault(package.name, set()).add(package.version)
    installed = {canonical(each.metadata["Name"]): each.version for each in metadata.distributions()}
    return [
        f"{name} {installed[name]} is installed, the lock has {' or '.join(sorted(versions))}"
        for name, versions in sorted(pinned.items())
        if name in installed and installed[name] not in versions
    ]


def main() -> None:
    """Write the document to the path given, or compare what is installed with the lock."""
    parser = argparse.ArgumentParser(description="The bill of materials of the lock.")
    parser.add_argument("path", nargs="?", default="dist/sbom.json")
    parser.add_argument("--check", action="store_true", help="compare what is installed with the lock instead")
    arguments = parser.parse_args()
    lock = (ROOT / "requirements.txt").read_text()
    if arguments.check:
        wrong = differences(lock)
        sys.exit("\n".join(wrong) if wrong else 0)
    made = document(lock, tomllib.loads((ROOT / "pyproject.toml").read_text()))
    path = Path(arguments.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=2) + "\n")
    print(f"wrote {path}: {len(made['components'])} packages")


if __name__ == "__main__":
    main()
