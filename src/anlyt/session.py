"""Signing in to the page: a key becomes a cookie of the browser, and the cookie of a request a key again. Pure.

In: a request's headers and a key. Out: Set-Cookie lines, and the key that a cookie carries. The cookie holds the key
and the instant it ends, so no process has to remember a session and a revoked key ends all of its sessions at once.
Scripts cannot read it, and it counts only for requests that this service's own page makes: a cookie is sent by the
browser whoever asks, so a request that may come from another site is refused, whatever its method.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct

from anlyt.access import Permission, Scope  # noqa: TC001 - msgspec reads the annotations of Session
from anlyt.errors import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

SESSION_LIFETIME: Final = timedelta(hours=12)
SESSION_BODY_BYTES_MAX: Final = 16_384
PLAIN_COOKIE: Final = "anlyt_session"  # over http, on loopback only
SECURE_COOKIE: Final = "__Host-anlyt_session"  # browsers take it over https only, for this host only

_LOOPBACK: Final = re.compile(r"localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|::1")
_VALUE: Final = re.compile(r"(\d{1,10})~([A-Za-z0-9_.-]+)")
_OWN_SITES: Final = frozenset({"same-origin", "none"})  # none: typed into the address bar, or a bookmark


class SignIn(Struct, frozen=True, forbid_unknown_fields=True):
    """What is posted to sign in: an API key, or whatever else is taken as one."""

    key: str


class Session(Struct, frozen=True, rename="camel"):
    """Who is signed in. `expires_at` is null for a request that carries its key in a header."""

    scope: Scope
    scope_ids: list[str]
    permissions: list[Permission]
    expires_at: datetime | None


def start_session(request: Request, credential: str, *, now: datetime) -> tuple[str, datetime]:
    """The Set-Cookie line of a new session and when it ends. Raises RequestError 403 over an open connection."""
    secure = _is_secure(request)
    if not secure and not _LOOPBACK.fullmatch(request.url.hostname or ""):
        raise RequestError(
            "this connection is not encrypted, so the key would be readable on its way: open the page over https, or "
            "through a tunnel (ssh -L 8080:127.0.0.1:8080 HOST) as http://127.0.0.1:8080",
            status=403,
            code="insecure-connection",
        )
    expires_at = (now + SESSION_LIFETIME).replace(microsecond=0)
    value = f"{int(expires_at.timestamp())}~{credential}"
    return _set_cookie(secure, value, int(SESSION_LIFETIME.total_seconds())), expires_at


def end_session(request: Request) -> str:
    """The Set-Cookie line that makes the browser forget its session."""
    return _set_cookie(_is_secure(request), "", 0)


def read_session(request: Request, *, now: datetime) -> tuple[str, datetime] | None:
    """The key in the request's cookie and when the session ends; None without a cookie.

    Raises RequestError: 403 when the request may come from another site, 401 when the session is over.
    """
    text = request.cookies.get(SECURE_COOKIE if _is_secure(request) else PLAIN_COOKIE)
    if not text:
        return None
    check_own_page(request)
    match = _VALUE.fullmatch(text)
    expires_at = datetime.fromtimestamp(int(match[1]), UTC) if match else None
    if match is None or expires_at is None or expires_at <= now:
        hours = SESSION_LIFETIME.total_seconds() / 3600
        raise RequestError(
            f"this session is over, each lasts {hours:.0f} hours; sign in again", status=401, code="unauthorized"
        )
    return match[2], expires_at


def check_own_page(request: Request) -> None:
    """Raise the 403 for a request that does not come from this service's own page.

    Browsers tell with Sec-Fetch-Site; those that do not tell at least the Origin of whatever is not a plain read.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        own = site in _OWN_SITES
    elif origin is not None:
        own = urlsplit(origin).netloc == request.headers.get("host")
    else:
        own = request.method in {"GET", "HEAD"}
    if not own:
        raise RequestError(
            "a signed-in browser sent this on behalf of another site; use the page of this service, or send the key in "
            "a header",
            status=403,
            code="cross-site",
        )


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _set_cookie(secure: bool, value: str, max_age_s: int) -> str:  # noqa: FBT001 - private
    name = SECURE_COOKIE if secure else PLAIN_COOKIE
    flags = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{flags}"
