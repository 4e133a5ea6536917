"""The files of the page as they are served: read once, compressed once, with names that change when any of them does.

In: the package's dashboard directory. Out: Assets, from which a request is answered without touching a file. The page
itself is asked for anew each time (ETag); everything else lies below a directory named by the hash of all files, so
that a browser keeps it for ever and never mixes two versions. A name that is not in the list does not exist: no path is
ever built from a request.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from fastapi import Response
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

    from fastapi import Request

ASSETS_PATH: Final = "/assets"
PAGE: Final = "index.html"
VERSION_CHARS: Final = 16  # of the hash in the names
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PLACE: Final = b"/assets/"  # how the page's source names the directory that gets its hash when it is served


class Asset(Struct, frozen=True):
    """A file as it is sent, plain and compressed."""

    media_type: str
    body: bytes
    packed: bytes
    etag: str


class Assets(Struct, frozen=True):
    """All files by name; `version` is the hash of all of them."""

    version: str
    files: Mapping[str, Asset]


def load_assets(directory: Traversable | None = None) -> Assets:
    """Read the page's files, which lie flat in `directory` (default: the package's own)."""
    directory = directory or resources.files("anlyt").joinpath("dashboard")
    found = {entry.name: entry.read_bytes() for entry in directory.iterdir() if _suffix(entry.name) in MEDIA_TYPES}
    joined = b"".join(name.encode() + b"\0" + found[name] + b"\0" for name in sorted(found))
    version = hashlib.sha256(joined).hexdigest()[:VERSION_CHARS]
    found[PAGE] = found[PAGE].replace(_PLACE, f"{ASSETS_PATH}/{version}/".encode())
    return Assets(version, {name: _asset(name, body) for name, body in found.items()})


def answer_page(assets: Assets, request: Request) -> Response:
    """The page. It is asked for anew each time and sent only when it has changed."""
    headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
    return _answer(assets.files[PAGE], request, headers)


def answer_asset(assets: Assets, request: Request, version: str, name: str) -> Response | None:
    """A file of this version; None when there is no such file."""
    asset = assets.files.get(name)
    if asset is None or version != assets.version or name == PAGE:
        return None
    return _answer(asset, request, {"cache-control": "public, max-age=31536000, immutable"})


def _answer(asset: Asset, request: Request, headers: dict[str, str]) -> Response:
    headers |= {"etag": asset.etag, "vary": "accept-encoding"}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, media_type=asset.media_type, headers=headers | {"content-encoding": "gzip"})
    return Response(asset.body, media_type=asset.media_type, headers=headers)


def _asset(name: str, body: bytes) -> Asset:
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:VERSION_CHARS]}"'  # weak: the same for the packed form
    return Asset(MEDIA_TYPES[_suffix(name)], body, gzip.compress(body, 9, mtime=0), etag)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
