"""Tokens: only the issuer's own signature counts, whatever a token says about itself; keys are kept up to date."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from anlyt import tokens, up
from anlyt.access import make_grant
from anlyt.errors import RequestError
from anlyt.tokens import Bearer, KeySet, judge, read_key_set, read_token, trusted
from commands import environment_of, start
from issuing import (
    AUDIENCE,
    EC_KEY,
    NAME,
    OTHER_RSA_KEY,
    P384_KEY,
    RSA_KEY,
    SMALL_RSA_KEY,
    claims,
    describe,
    key_server,
    sign,
)
from serving import problem_of, service
from support import free_port, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from anlyt.settings import Settings
    from issuing import KeyServer

TOMORROW_S = int(time.time()) + 86_400  # the tests may run long after they were collected
A = "0b1d6f2e-5a3c-4f7e-9d80-0123456789ab"
B = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
KEYS = read_key_set(json.dumps({"keys": [describe(RSA_KEY, "rsa"), describe(EC_KEY, "ec")]}).encode())
RSA_PEM = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def bearer(text: str, *, now: datetime | None = None) -> Bearer | None:
    """What a token is worth to us."""
    presented = read_token(text)
    key = None if presented is None else KEYS.get((presented.key_id, presented.algorithm))
    if presented is None or key is None:
        return None
    return judge(presented, key, issuer=NAME, audience=AUDIENCE, now=now or datetime.now(UTC))


def encode(part: object) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


# ------------------------------------------------------------------------------------------------------------ good ones


@pytest.mark.parametrize(("key", "key_id", "algorithm"), [(RSA_KEY, "rsa", "RS256"), (EC_KEY, "ec", "ES256")])
def test_a_token_of_either_algorithm_gives_its_claims(key: Any, key_id: str, algorithm: str) -> None:
    made = claims("ACCOUNT", A.upper(), B, scope="openid metrics:read events:write profile")
    found = bearer(sign(made, key=key, key_id=key_id, algorithm=algorithm))

    assert found is not None
    assert found.grant == make_grant("ACCOUNT", [A, B], ["metrics:read", "events:write"])


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [AUDIENCE, "other"]},
        {"sub": None},
        {"iat": None},
        {"nbf": 1},
        {"exp": TOMORROW_S + 0.5},
    ],
    ids=str,
)
def test_what_the_claims_may_be(changes: dict[str, Any]) -> None:
    assert bearer(sign(claims("ACCOUNT", A, **changes))) is not None


@pytest.mark.parametrize(("claim", "off_s"), [("exp", -20), ("nbf", 20), ("iat", 20)])
def test_the_issuers_clock_may_differ_a_little(claim: str, off_s: int) -> None:
    assert bearer(sign(claims("ACCOUNT", A, **{claim: int(time.time()) + off_s}))) is not None


@pytest.mark.parametrize("ids", [[], ["platform"], None])
def test_the_platform_needs_no_ids(ids: list[str] | None) -> None:
    found = bearer(sign(claims("PLATFORM", anlyt_ids=ids)))

    assert found is not None
    assert found.grant == make_grant("PLATFORM", [], ["metrics:read"])


@pytest.mark.parametrize(
    "words", [None, "", "openid", "METRICS:READ", "metrics:readx metrics :read", "metrics:read,admin"]
)
def test_words_that_are_no_permissions_give_none(words: str | None) -> None:
    found = bearer(sign(claims("PLATFORM", scope=words)))

    assert found is not None
    assert found.grant.permissions == frozenset()


def test_callers_are_told_apart_without_being_named() -> None:
    one, same, other = (
        bearer(sign(claims("ACCOUNT", A, sub=sub))) for sub in ("a@example.com", "a@example.com", "b@example.com")
    )
    nameless = [bearer(sign(claims("ACCOUNT", who, sub=None))) for who in (A, B)]

    assert one is not None
    assert same is not None
    assert other is not None
    assert one.caller == same.caller == "jwt-" + hashlib.sha256(b"a@example.com").hexdigest()[:12]
    assert len({each.caller for each in (one, other, *nameless) if each is not None}) == 4


# ------------------------------------------------------------------------------------------------------------ bad ones

BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "no issuer": {"iss": None},
    "other issuer": {"iss": NAME + "/"},
    "issuer as list": {"iss": [NAME]},
    "no audience": {"aud": None},
    "other audience": {"aud": "anlyt2"},
    "other audiences": {"aud": ["a", "b"]},
    "empty audiences": {"aud": []},
    "audience as object": {"aud": {AUDIENCE: 1}},
    "no expiry": {"exp": None},
    "expired": {"exp": TOMORROW_S - 2 * 86_400},
    "expiry as text": {"exp": str(TOMORROW_S)},
    "expiry as truth": {"exp": True},
    "expiry never": {"exp": 10**40},
    "expiry in milliseconds": {"exp": TOMORROW_S * 1000},
    "not yet": {"nbf": TOMORROW_S},
    "not yet, as text": {"nbf": "0"},
    "from the future": {"iat": TOMORROW_S},
    "no scope": {"anlyt_scope": None},
    "unknown scope": {"anlyt_scope": "platform"},
    "scope as list": {"anlyt_scope": ["PLATFORM"]},
    "no ids": {"anlyt_ids": None},
    "empty ids": {"anlyt_ids": []},
    "ids as text": {"anlyt_ids": A},
    "ids that are none": {"anlyt_ids": ["*"]},
    "platform as an id": {"anlyt_ids": ["platform"]},
    "a number among ids": {"anlyt_ids": [A, 1]},
    "too many ids": {"anlyt_ids": [f"{n:08x}-0000-4000-8000-00000000acc0" for n in range(101)]},
    "permissions as list": {"scope": ["metrics:read"]},
    "subject as number": {"sub": 7},
    "ids for the platform": {"anlyt_scope": "PLATFORM", "anlyt_ids": [A]},
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_signed_token_with_wrong_claims_is_worth_nothing(case: str) -> None:
    made = claims("ACCOUNT", A, **BAD_CLAIMS[case])
    if not isinstance(made.get("iss", ""), str) or not isinstance(made.get("sub", ""), str):
        text = jwt.PyJWS().encode(json.dumps(made).encode(), RSA_KEY, "RS256", {"kid": "rsa", "typ": "JWT"})
    else:
        text = sign(made)

    assert bearer(sign(claims("ACCOUNT", A))) is not None
    assert bearer(text) is None


def hmac_token(secret: bytes, algorithm: str = "HS256", key_id: str = "rsa") -> str:
    """A token signed with the public key as if it were a shared secret."""
    body = f"{encode({'alg': algorithm, 'kid': key_id, 'typ': 'JWT'})}.{encode(claims('PLATFORM'))}"
    return f"{body}.{encode(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"


def unsigned(algorithm: str) -> str:
    return f"{encode({'alg': algorithm, 'kid': 'rsa', 'typ': 'JWT'})}.{encode(claims('PLATFORM'))}."


def forged(**header: Any) -> str:
    """A token signed by somebody else, whose header tries to be believed."""
    return sign(claims("PLATFORM"), key=OTHER_RSA_KEY, **header)


def tampered() -> str:
    head, _, signature = sign(claims("ACCOUNT", A)).split(".")
    return f"{head}.{encode(claims('PLATFORM'))}.{signature}"


GOOD = sign(claims("PLATFORM", exp=TOMORROW_S))
FORGED: dict[str, Callable[[], str]] = {
    "none": lambda: unsigned("none"),
    "nOnE": lambda: unsigned("nOnE"),
    "empty algorithm": lambda: unsigned(""),
    "unsigned RS256": lambda: unsigned("RS256"),
    "HS256 with the public key": lambda: hmac_token(RSA_PEM),
    "HS256 with the key as it is published": lambda: hmac_token(json.dumps(describe(RSA_KEY, "rsa")).encode()),
    "HS256 named RS256": lambda: hmac_token(RSA_PEM, "RS256"),
    "ES256 under the RSA key's id": lambda: sign(claims("PLATFORM"), key=EC_KEY, algorithm="ES256"),
    "RS256 under the EC key's id": lambda: sign(claims("PLATFORM"), key_id="ec"),
    "RS512 with the right key": lambda: sign(claims("PLATFORM"), algorithm="RS512"),
    "PS256 with the right key": lambda: sign(claims("PLATFORM"), algorithm="PS256"),
    "another key": forged,
    "embedded key": lambda: forged(jwk=describe(OTHER_RSA_KEY, "rsa")),
    "address of keys": lambda: forged(jku="http://127.0.0.1:1/jwks.json"),
    "address of a certificate": lambda: forged(x5u="http://127.0.0.1:1/cert", x5c=["MIIB"]),
    "no key id": lambda: jwt.encode(claims("PLATFORM"), RSA_KEY, algorithm="RS256"),
    "key id as a path": lambda: sign(claims("PLATFORM"), key_id="../../dev/null"),
    "key id as SQL": lambda: sign(claims("PLATFORM"), key_id="' OR 1=1 --"),
    "unknown critical header": lambda: sign(claims("PLATFORM"), crit=["b64"], b64=True),
    "another type": lambda: sign(claims("PLATFORM"), typ="JWE"),
    "tampered claims": tampered,
    "signature cut": lambda: GOOD[:-3],
    "signature twice": lambda: f"{GOOD}.{GOOD.split('.')[2]}",
    "two parts": lambda: GOOD.rpartition(".")[0],
    "claims that are a list": lambda: jwt.PyJWS().encode(b"[]", RSA_KEY, "RS256", {"kid": "rsa"}),
    "claims that are no JSON": lambda: jwt.PyJWS().encode(b"\xff", RSA_KEY, "RS256", {"kid": "rsa"}),
    "deep claims": lambda: jwt.PyJWS().encode(
        b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}", RSA_KEY, "RS256", {"kid": "rsa"}
    ),
    "too long": lambda: sign(claims("PLATFORM", more="x" * tokens.TOKEN_CHARS_MAX)),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_token_the_issuer_did_not_sign_as_it_must_be_is_worth_nothing(case: str) -> None:
    assert bearer(GOOD) is not None
    assert bearer(FORGED[case]()) is None


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda raw: f"{encode(raw)}.{encode(raw)}.{encode(raw)}"))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    assert read_token(text) is None
    assert bearer(text) is None


@given(place=st.integers(0, len(GOOD) - 1), letter=st.sampled_from("AZaz09-_.="))
def test_a_token_with_one_letter_changed_is_worth_nothing(place: int, letter: str) -> None:
    changed = GOOD[:place] + letter + GOOD[place + 1 :]
    last = place == len(GOOD) - 1  # the last letter holds bits that mean nothing

    assert changed == GOOD or last or bearer(changed) is None


# ------------------------------------------------------------------------------------------------------------ key sets


def test_only_keys_that_sign_and_are_strong_enough_are_read() -> None:
    keys = [
        describe(RSA_KEY, "good"),
        describe(RSA_KEY, "plain", use=None, alg=None),
        describe(EC_KEY, "verify", key_ops=["verify"]),
        describe(RSA_KEY, "encrypts", use="enc"),
        describe(RSA_KEY, "wraps", key_ops=["wrapKey"]),
        describe(RSA_KEY, "RS512", alg="RS512"),
        describe(RSA_KEY, "as text", key_ops="verify"),
        describe(SMALL_RSA_KEY, "small"),
        describe(P384_KEY, "P-384"),
        describe(EC_KEY, "off the curve", y="AAAA"),
        describe(RSA_KEY, "no exponent", e=None),
        describe(RSA_KEY, "no text", n=7),
        {"kty": "oct", "kid": "shared", "k": encode(b"x" * 32), "use": "sig"},
        {"kty": ["RSA"], "kid": "odd"},
        {k: v for k, v in describe(RSA_KEY, "").items() if k != "kid"},
        describe(RSA_KEY, "x" * 300),
    ]

    assert set(read_key_set(json.dumps({"keys": keys}).encode())) == {
        ("good", "RS256"),
        ("plain", "RS256"),
        ("verify", "ES256"),
    }


def test_private_parts_that_an_issuer_shows_by_mistake_are_not_kept() -> None:
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"kid": "rsa", "key_ops": ["verify"]}
    (key,) = read_key_set(json.dumps({"keys": [private]}).encode()).values()

    assert not hasattr(key.key, "private_numbers")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"<html>", b'{"keys": {}}', b'{"keys": [1]}', b'{"keys": []}', b"[" * 100_000, b"\xff"],
    ids=lambda body: ascii(body[:12]),
)
def test_what_is_no_key_set_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_key_set(body)


def test_a_key_set_without_end_is_refused() -> None:
    keys = [describe(RSA_KEY, str(n)) for n in range(tokens.KEYS_MAX + 1)]
    with pytest.raises(ValueError, match="101 keys"):
        read_key_set(json.dumps({"keys": keys}).encode())


# ------------------------------------------------------------------------------------------------------------ fetching


class Clock:
    """A steady clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


async def found(keys: KeySet, key_id: str = "rsa") -> bool | int:
    """Whether the key is found, or the status of the refusal."""
    try:
        return await keys.find(key_id, "RS256") is not None
    except RequestError as error:
        return error.status


async def idle(keys: KeySet) -> None:
    """Wait until no fetch runs."""
    await wait_until(lambda: keys._fetching is None, what="the fetch ends")


def test_a_new_key_is_found_when_a_token_names_it_and_a_flood_of_unknown_ids_is_one_fetch() -> None:
    async def story() -> None:
        clock = Clock()
        async with key_server() as server, trusted(server.settings(), clock=clock) as issuer:
            assert issuer is not None
            keys = issuer.keys
            assert await found(keys)
            assert server.asked == 1
            server.offer(describe(RSA_KEY, "rsa"), describe(OTHER_RSA_KEY, "next"))
            assert await found(keys, "next") is False  # asked a moment ago
            clock.now_s += tokens.UNKNOWN_PERIOD_S
            assert await found(keys, "next")
            for number in range(200):
                assert not await found(keys, f"unknown {number}")
            assert server.asked == 2

    run(story())


def test_a_key_that_was_withdrawn_is_dropped_without_anybody_waiting_for_it() -> None:
    async def story() -> None:
        clock = Clock()
        async with key_server() as server, trusted(server.settings(), clock=clock) as issuer:
            assert issuer is not None
            keys = issuer.keys
            assert await found(keys)
            server.offer(describe(OTHER_RSA_KEY, "next"))
            clock.now_s += tokens.KEYS_FRESH_S
            assert await found(keys)  # it answers at once, and has the keys fetched beside it
            await idle(keys)
            assert not await found(keys)
            assert await found(keys, "next")

    run(story())


def test_after_a_long_rest_the_keys_are_fetched_before_they_are_used() -> None:
    async def story() -> None:
        clock = Clock()
        async with key_server() as server, trusted(server.settings(), clock=clock) as issuer:
            assert issuer is not None
            assert await found(issuer.keys)
            server.offer(describe(OTHER_RSA_KEY, "next"))
            clock.now_s += tokens.KEYS_STALE_S
            assert not await found(issuer.keys)

    run(story())


def fail_with(server: KeyServer, failure: str) -> None:
    match failure:
        case "hangs":
            server.hanging = True
        case "500":
            server.head = b"HTTP/1.1 500 Oops\r\n"
        case "redirects":
            server.head = b"HTTP/1.1 302 Found\r\nLocation: %b\r\n" % server.url.encode()
        case "compresses":
            server.head += b"Content-Encoding: gzip\r\n"
        case "is endless":
            server.body = b" " * (tokens.KEY_SET_BYTES_MAX + 1) + server.body
        case "no longer speaks HTTP":
            server.head = b"SSH-2.0-OpenSSH\r\n"
        case _:
            server.body = failure.encode()


FAILURES = ["hangs", "500", "redirects", "compresses", "is endless", "no longer speaks HTTP", "<html>", '{"keys": []}']


@pytest.mark.parametrize("failure", FAILURES)
def test_an_issuer_that_fails_keeps_its_last_good_keys_for_a_day(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FETCH_LIMIT_S", 0.3)

    async def story() -> None:
        clock = Clock()
        async with key_server() as server, trusted(server.settings(), clock=clock) as issuer:
            assert issuer is not None
            keys = issuer.keys
            assert await found(keys)
            fail_with(server, failure)
            with capture_logs() as entries:
                while clock.now_s < 1_000.0 + tokens.KEYS_AGE_MAX_S - 7_200:
                    clock.now_s += 7_200
                    assert await found(keys) is True
                    await idle(keys)
            assert {entry["event"] for entry in entries} == {"token-keys-unavailable"}
            asked = server.asked
            assert not await found(keys, "unknown")
            assert server.asked == asked  # the last try was a moment ago
            clock.now_s += 7_201
            assert await found(keys) == 503
            server.__dict__.update(vars(type(server)()) | {"url": server.url})  # it is well again
            clock.now_s += tokens.UNKNOWN_PERIOD_S
            assert await found(keys) is True

    run(story())


def test_while_there_are_no_keys_a_token_is_a_503_and_not_a_401(database_url: str) -> None:
    async def story() -> None:
        async with key_server() as server:
            fail_with(server, "500")
            async with (
                trusted(server.settings()) as issuer,
                service(database_url, settings=server.settings(), issuer=issuer) as (client, _),
            ):
                response = await client.get("/v1/status", headers={"Authorization": f"Bearer {GOOD}"})

                assert response.status_code == 503
                assert int(response.headers["retry-after"]) > 0
                problem_of(response)

    run(story())


def test_nothing_is_fetched_from_where_a_token_says(database_url: str) -> None:
    async def story() -> None:
        async with key_server() as server, key_server() as evil:
            evil.offer(describe(OTHER_RSA_KEY, "evil"))
            async with (
                trusted(server.settings()) as issuer,
                service(database_url, settings=server.settings(), issuer=issuer) as (client, _),
            ):
                for header in ({"jku": evil.url}, {"x5u": evil.url}, {"jwk": describe(OTHER_RSA_KEY, "evil")}):
                    text = sign(claims("PLATFORM"), key=OTHER_RSA_KEY, key_id="evil", **header)
                    response = await client.get("/v1/status", headers={"Authorization": f"Bearer {text}"})

                    assert response.status_code == 401
            assert evil.asked == 0

    run(story())


# -------------------------------------------------------------------------------------------------------------- the API


def test_a_token_opens_what_its_claims_say_and_good_ones_pass_beside_a_flood_of_bad_ones(database_url: str) -> None:
    async def story() -> None:
        async with (
            key_server() as server,
            trusted(server.settings()) as issuer,
            service(database_url, settings=server.settings(), issuer=issuer) as (client, _),
        ):

            async def ask(route: str, text: str) -> httpx2.Response:
                return await client.get(route, headers={"Authorization": f"Bearer {text}"})

            tenant = sign(claims("ACCOUNT", A), key=EC_KEY, key_id="ec", algorithm="ES256")
            with capture_logs() as entries:
                assert (await ask("/v1/metrics/hourly", tenant)).status_code == 200
                assert (await ask(f"/v1/metrics/hourly?scopeId={B}", tenant)).status_code == 404
                assert (await ask("/v1/dead-letters", tenant)).status_code == 403
                answers = [(await ask("/v1/status", forged())).status_code for _ in range(25)]
                assert (await ask("/v1/status", tenant)).status_code == 200
                nobody = sign(claims("PLATFORM", scope="openid"))
                assert (await ask("/v1/status", nobody)).status_code == 403

            assert answers == [401] * 20 + [429] * 5
            callers = {entry["key_id"] for entry in entries if entry["event"] == "http-answered"}
            assert callers == {None, "jwt-" + hashlib.sha256(b"user-1").hexdigest()[:12]}
            assert not any(text in str(entries) for text in (tenant, tenant.split(".")[2], "user-1"))

    run(story())


def test_without_an_issuer_no_token_is_taken(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            response = await client.get("/v1/status", headers={"Authorization": f"Bearer {GOOD}"})

            assert response.status_code == 401

    run(story())


def test_the_command_takes_tokens_of_the_issuer_that_is_set(settings: Settings) -> None:
    """The whole way: settings, a process of its own, its fetch of the keys, a token."""
    run(up.prepare(settings))
    port = free_port()

    async def story() -> None:
        async with key_server() as server, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            trust = {"jwks_url": server.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
            process = start("api", env=environment_of(settings, http_port=str(port), **trust))
            try:

                async def answered() -> httpx2.Response | None:
                    with suppress(httpx2.ConnectError):
                        text = sign(claims("ACCOUNT", A))
                        return await client.get("/v1/metrics/daily", headers={"Authorization": f"Bearer {text}"})
                    return None

                response = await wait_until(answered, 30, what="the process answers")
                bad = await client.get("/v1/metrics/daily", headers={"Authorization": f"Bearer {forged()}"})
            finally:
                process.terminate()
                await asyncio.to_thread(process.communicate, timeout=20)

            assert (response.status_code, bad.status_code, process.returncode) == (200, 401, 0)
            assert server.asked == 1

    run(story())
