"""A token issuer as the tests need one: real keys, a real HTTP server for its key set, tokens right and wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from anlyt.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = "https://issuer.test/realms/a2p"
AUDIENCE = "anlyt"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it must be refused
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())


def describe(key: PrivateKey, key_id: str, **changes: Any) -> dict[str, Any]:
    """The public key as a member of a key set; a change to None takes a member away."""
    if isinstance(key, rsa.RSAPrivateKey):
        described: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        described = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    described |= {"kid": key_id, "use": "sig", "alg": "RS256" if described["kty"] == "RSA" else "ES256"} | changes
    described.pop("key_ops", None) if "key_ops" not in changes else None
    return {name: value for name, value in described.items() if value is not None}


def claims(of: str, /, *ids: str, **changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to None takes a claim away."""
    now = int(time.time())
    made = {
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": "user-1",
        "iat": now,
        "exp": now + 300,
        "anlyt_scope": of,
        "anlyt_ids": list(ids),
        "scope": "openid metrics:read",
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def sign(
    payload: dict[str, Any], *, key: Any = RSA_KEY, key_id: str = "rsa", algorithm: str = "RS256", **header: Any
) -> str:
    """A token."""
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": key_id} | header)


class KeyServer:
    """What the issuer's server answers, and how often it was asked."""

    def __init__(self) -> None:
        self.body = json.dumps({"keys": [describe(RSA_KEY, "rsa"), describe(EC_KEY, "ec")]}).encode()
        self.head = b"HTTP/1.1 200 OK\r\nContent-Type: application/jwk-set+json\r\n"
        self.hanging = False
        self.asked = 0
        self.url = ""

    def offer(self, *keys: dict[str, Any]) -> None:
        """Publish these keys from now on."""
        self.body = json.dumps({"keys": keys}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        try:
            if self.hanging:
                await reader.read()  # until the client gives up
            else:
                writer.write(
                    self.head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(self.body) + self.body
                )
                await writer.drain()
        except ConnectionError:
            pass  # it did not want to hear the end
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def settings(self, **changes: Any) -> Settings:
        """Settings that trust this issuer."""
        trust = {"jwks_url": self.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
        return Settings.model_validate({"stream": "T", "currency": "USD"} | trust | changes)


@asynccontextmanager
async def key_server() -> AsyncIterator[KeyServer]:
    """An issuer's server on this machine."""
    made = KeyServer()
    async with await asyncio.start_server(made.answer, "127.0.0.1", 0) as server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        yield made
