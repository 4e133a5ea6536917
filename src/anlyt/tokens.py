"""Tokens (JWT): who they were issued to, when a trusted issuer signed them; and that issuer's keys, kept up to date.

In: the text of a token, the address of the issuer's key set (JWKS). Out: a Bearer, or None without a hint why. The
key a token names decides the algorithm, RS256 or ES256, and the token must agree; keys and addresses inside a token are
never looked at. `judge` is pure. Keys are fetched in the background and within limits; when that fails, the last good
ones serve for KEYS_AGE_MAX_S, and a flood of unknown key ids causes one fetch in UNKNOWN_PERIOD_S, not one each.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx2
import jwt
import msgspec
import structlog
from jwt.utils import base64url_decode
from msgspec import Struct

from anlyt.access import make_token_grant
from anlyt.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from datetime import datetime

    from anlyt.access import Grant
    from anlyt.settings import Settings

Algorithm = Literal["RS256", "ES256"]

TOKEN_CHARS_MAX: Final = 8_192  # a longer text is no token and is not looked at
KEY_ID_CHARS_MAX: Final = 256
LEEWAY_S: Final = 30  # by which the issuer's clock may differ
EXPIRY_MAX_S: Final = 253_402_300_800  # the year 10000: a token must expire
KEYS_MAX: Final = 100  # of one key set
RSA_BITS_MIN: Final = 2_048
RSA_BITS_MAX: Final = 8_192
KEY_SET_BYTES_MAX: Final = 262_144
FETCH_LIMIT_S: Final = 3.0  # for fetching a key set
KEYS_FRESH_S: Final = 300.0  # older keys are fetched again, in the background while tokens come in
KEYS_STALE_S: Final = 900.0  # older keys are fetched again before they are used, unless that has just failed
KEYS_AGE_MAX_S: Final = 86_400.0  # how long the last good keys serve while the issuer cannot be reached
UNKNOWN_PERIOD_S: Final = 10.0  # between two fetches, whatever tokens name

log = structlog.get_logger("anlyt.tokens")

Keys = dict[tuple[str, Algorithm], jwt.PyJWK]


class PresentedToken(Struct, frozen=True):
    """A text with the form of a token; whether it is valid only the key it names can tell."""

    text: str
    key_id: str
    algorithm: Algorithm


class Bearer(Struct, frozen=True):
    """Whom a valid token was issued to. `caller` tells callers apart in logs and limits without naming anybody."""

    caller: str
    grant: Grant
    expires_s: float  # since 1970, with LEEWAY_S


class _Header(Struct, frozen=True):
    alg: Algorithm
    kid: str
    typ: str = "JWT"
    crit: Any = None


class _Claims(Struct, frozen=True):
    iss: str
    aud: str | list[str]
    exp: int | float
    anlyt_scope: str
    anlyt_ids: list[str] = []
    scope: str = ""
    sub: str | None = None
    nbf: int | float = 0
    iat: int | float = 0


# ------------------------------------------------------------------------------------------------------------- pure


def read_token(text: str) -> PresentedToken | None:
    """What a token says about itself; None when it cannot be one of ours."""
    parts = text.split(".")
    if len(text) > TOKEN_CHARS_MAX or len(parts) != 3 or not text.isascii():  # noqa: PLR2004 - header.claims.signature
        return None
    try:
        header = msgspec.json.decode(base64url_decode(parts[0]), type=_Header)
    except (ValueError, RecursionError):  # what the decoders raise
        return None
    kind = header.typ.lower().removeprefix("application/")
    if header.crit is not None or kind not in {"jwt", "at+jwt"} or not 1 <= len(header.kid) <= KEY_ID_CHARS_MAX:
        return None
    return PresentedToken(text, header.kid, header.alg)


def judge(presented: PresentedToken, key: jwt.PyJWK, *, issuer: str, audience: str, now: datetime) -> Bearer | None:
    """The Bearer of a token, or None when its signature, issuer, audience, times or claims are not right."""
    try:
        signed = jwt.PyJWS(algorithms=[key.algorithm_name]).decode_complete(presented.text, key)
        claims = msgspec.json.decode(signed["payload"], type=_Claims)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    now_s = now.timestamp()
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    current = now_s < claims.exp + LEEWAY_S and claims.exp < EXPIRY_MAX_S
    begun = max(claims.nbf, claims.iat) <= now_s + LEEWAY_S
    if claims.iss != issuer or audience not in audiences or not current or not begun:
        return None
    grant = make_token_grant(claims.anlyt_scope, claims.anlyt_ids, claims.scope)
    return None if grant is None else Bearer(_caller(claims, grant), grant, claims.exp + LEEWAY_S)


def _caller(claims: _Claims, grant: Grant) -> str:
    """A name in logs that is nobody's e-mail address."""
    who = claims.sub or f"{grant.scope} {' '.join(sorted(grant.scope_ids))}"
    return "jwt-" + hashlib.sha256(who.encode()).hexdigest()[:12]


class _KeySet(Struct, frozen=True):
    keys: list[dict[str, Any]]


def read_key_set(body: bytes) -> Keys:
    """The keys of a JWKS that can sign tokens for us. Raises ValueError when it holds none, or is none."""
    try:
        described = msgspec.json.decode(body, type=_KeySet).keys
    except (ValueError, RecursionError) as error:
        msg = f"it is no key set: {error}"
        raise ValueError(msg) from None
    if len(described) > KEYS_MAX:
        msg = f"it holds {len(described)} keys, but at most {KEYS_MAX} are read"
        raise ValueError(msg)
    keys = dict(filter(None, map(_read_key, described)))
    if not keys:
        msg = f"none of its {len(described)} keys is an RSA or P-256 key with a kid that signs"
        raise ValueError(msg)
    return keys


_CURVE: Final = "P-256"  # the one of ES256
_PUBLIC: Final[Mapping[Algorithm, tuple[str, ...]]] = {"RS256": ("kty", "n", "e"), "ES256": ("kty", "crv", "x", "y")}


def _read_key(described: dict[str, Any]) -> tuple[tuple[str, Algorithm], jwt.PyJWK] | None:
    """One key and the only algorithm it may be used with; None for keys of other kinds and for other uses."""
    kinds: dict[object, Algorithm] = {"RSA": "RS256", "EC": "ES256"}
    kind, key_id, operations = described.get("kty"), described.get("kid"), described.get("key_ops", ["verify"])
    algorithm = kinds.get(kind) if isinstance(kind, str) else None
    if algorithm is None or not isinstance(key_id, str) or not 1 <= len(key_id) <= KEY_ID_CHARS_MAX:
        return None
    signs = described.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if not signs or described.get("alg", algorithm) != algorithm or described.get("crv", _CURVE) != _CURVE:
        return None
    try:
        # Only the public members: a key set that shows private ones by mistake is not kept in our memory.
        key = jwt.PyJWK({name: described[name] for name in _PUBLIC[algorithm]}, algorithm=algorithm)
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None
    bits = getattr(key.key, "key_size", 0)
    return ((key_id, algorithm), key) if algorithm == "ES256" or RSA_BITS_MIN <= bits <= RSA_BITS_MAX else None


# ----------------------------------------------------------------------------------------------------------- keys


class KeySet:
    """The issuer's keys, as fresh as KEYS_FRESH_S says while tokens are presented. `clock` is any steady clock."""

    def __init__(self, url: str, client: httpx2.AsyncClient, *, clock: Callable[[], float]) -> None:
        self._url = url
        self._client = client
        self._clock = clock
        self._keys: Keys = {}
        self._read_at_s: float | None = None
        self._tried_at_s: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str, algorithm: Algorithm) -> jwt.PyJWK | None:
        """The key of an id, None when the issuer has none. Raises RequestError 503 while there are no keys to go by."""
        key = self._known(key_id, algorithm)
        attempt = None if key is not None and self._age() < KEYS_FRESH_S else self.refresh()
        failing = self._tried_at_s != self._read_at_s
        if attempt is not None and (key is None or (self._age() >= KEYS_STALE_S and not failing)):
            await asyncio.shield(attempt)
            key = self._known(key_id, algorithm)
        if self._age() > KEYS_AGE_MAX_S:
            raise RequestError(
                "the keys of the token issuer cannot be read at the moment; try again in a few seconds",
                status=503,
                code="unavailable",
            )
        return key

    def knows(self, presented: PresentedToken) -> bool:
        """Whether the key a token names is at hand."""
        return self._known(presented.key_id, presented.algorithm) is not None

    def refresh(self) -> asyncio.Task[None] | None:
        """The fetch that runs now, or a new one; None when the last one was a moment ago."""
        if self._fetching is not None:
            return self._fetching
        if self._tried_at_s is not None and self._clock() - self._tried_at_s < UNKNOWN_PERIOD_S:
            return None
        self._fetching = asyncio.create_task(self._fetch(), name="fetch the token issuer's keys")
        return self._fetching

    async def close(self) -> None:
        """End a fetch that runs."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _known(self, key_id: str, algorithm: Algorithm) -> jwt.PyJWK | None:
        return self._keys.get((key_id, algorithm)) if self._age() <= KEYS_AGE_MAX_S else None

    def _age(self) -> float:
        return float("inf") if self._read_at_s is None else self._clock() - self._read_at_s

    async def _fetch(self) -> None:
        began_s = self._clock()
        try:
            self._keys = read_key_set(await _download(self._client, self._url))
            self._read_at_s = began_s
            log.info("token-keys-read", url=self._url, keys=sorted(key_id for key_id, _ in self._keys))
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            cause = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            log.warning("token-keys-unavailable", url=self._url, cause=cause)
        finally:
            self._tried_at_s = began_s
            self._fetching = None


async def _download(client: httpx2.AsyncClient, url: str) -> bytes:
    """The body at `url`, of 200 only: a redirect leads nowhere. Raises httpx2.HTTPError, TimeoutError, ValueError."""
    body = bytearray()
    async with asyncio.timeout(FETCH_LIMIT_S), client.stream("GET", url) as response:
        if response.status_code != HTTPStatus.OK or "content-encoding" in response.headers:
            msg = f"the answer was {response.status_code}, not 200 with an uncompressed body"
            raise ValueError(msg)
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > KEY_SET_BYTES_MAX:
                msg = f"the answer has more than {KEY_SET_BYTES_MAX} bytes"
                raise ValueError(msg)
    return bytes(body)


# ------------------------------------------------------------------------------------------------------------ issuer


class Issuer(Struct, frozen=True):
    """The one whose tokens are taken."""

    name: str
    audience: str
    keys: KeySet

    async def admit(self, presented: PresentedToken, now: datetime) -> Bearer | None:
        """The Bearer of a token, or None when it is not valid. Raises RequestError 503 while there are no keys."""
        key = await self.keys.find(presented.key_id, presented.algorithm)
        return None if key is None else judge(presented, key, issuer=self.name, audience=self.audience, now=now)


@asynccontextmanager
async def trusted(settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> AsyncGenerator[Issuer | None]:
    """The issuer that the settings name, its keys being fetched already; None when they name none."""
    if settings.jwks_url is None or settings.jwt_issuer is None or settings.jwt_audience is None:
        yield None
        return
    client = httpx2.AsyncClient(
        follow_redirects=False,
        timeout=FETCH_LIMIT_S,
        headers={"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"},
        trust_env=settings.jwks_url.startswith("https:"),  # proxies and authorities of this machine; not for loopback
    )
    async with client:
        keys = KeySet(settings.jwks_url, client, clock=clock)
        keys.refresh()
        try:
            yield Issuer(settings.jwt_issuer, settings.jwt_audience, keys)
        finally:
            await keys.close()
