"""Keys and grants: a key is told by its hash, a Grant decides alone what may be seen."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from anlyt import access
from anlyt.access import Grant, StoredKey, Tries, Visible, admit, make_grant, new_key, read_key, see
from anlyt.errors import RequestError, UsageError

NOW = datetime(2026, 4, 18, 12, tzinfo=UTC)
A = "0b1d6f2e-5a3c-4f7e-9d80-0123456789ab"
B = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
STAFF = make_grant("PLATFORM", [], ["metrics:read"])
TENANT = make_grant("ACCOUNT", [A], ["metrics:read"])


def stored(key: access.NewKey, **changes: object) -> StoredKey:
    record = StoredKey(key.key_sha256, "ACCOUNT", (A,), ("metrics:read",), NOW + timedelta(days=1), None)
    return replace(record, **changes)


# ---------------------------------------------------------------------------------------------------------------- keys


def test_a_key_has_a_recognisable_form_and_enough_randomness() -> None:
    keys = [new_key() for _ in range(200)]

    assert all(re.fullmatch(r"anlyt_[0-9a-z]{12}_[0-9A-Za-z]{38}", key.key) for key in keys)
    assert len({key.key_id for key in keys}) == len({key.key for key in keys}) == 200
    assert 32 * 5.95 > 160  # bits of the secret
    assert set(string.ascii_letters + string.digits) == set("".join(key.key[19:51] for key in keys))


def test_a_key_is_read_back_as_its_id_and_hash() -> None:
    key = new_key()
    presented = read_key(key.key)

    assert presented is not None
    assert (key.key_id, key.key_sha256) == (presented.key_id, presented.key_sha256)
    assert key.key.encode() not in key.key_sha256


def test_every_single_wrong_character_is_told_without_a_query() -> None:
    key = new_key().key
    for place in range(len(key)):
        other = "x" if key[place] != "x" else "y"

        assert read_key(key[:place] + other + key[place + 1 :]) is None


@pytest.mark.parametrize("cut", [0, 1, 6, 18, 30, 55, 56])
def test_a_cut_key_is_no_key(cut: int) -> None:
    assert read_key(new_key().key[:cut]) is None


@given(st.text(max_size=200))
def test_any_other_text_is_no_key(text: str) -> None:
    assert read_key(text) is None
    assert read_key("anlyt_" + text) is None


def test_a_good_key_is_admitted_with_its_grant() -> None:
    key = new_key()
    presented = read_key(key.key)

    assert presented is not None
    assert admit(presented, stored(key), NOW) == TENANT
    assert admit(presented, stored(key, expires_at=None), NOW) == TENANT


def test_unknown_wrong_expired_and_revoked_keys_all_get_nothing() -> None:
    key, other = new_key(), new_key()
    presented = read_key(key.key)

    assert presented is not None
    assert admit(presented, None, NOW) is None
    assert admit(presented, stored(other), NOW) is None
    assert admit(presented, stored(key, expires_at=NOW), NOW) is None
    assert admit(presented, stored(key, revoked_at=NOW - timedelta(seconds=1)), NOW) is None


# --------------------------------------------------------------------------------------------------------------- grants


def test_a_grant_keeps_lower_case_ids() -> None:
    grant = make_grant("OPERATOR", [A.upper(), B], ["metrics:read", "admin"])

    assert Grant("OPERATOR", frozenset({A, B}), frozenset({"metrics:read", "admin"})) == grant


@pytest.mark.parametrize(
    ("scope", "ids", "permissions", "named"),
    [
        ("platform", [], ["metrics:read"], "'platform'"),
        ("TENANT", [A], ["metrics:read"], "'TENANT'"),
        ("ACCOUNT", [A], [], "metrics:read, events:write, admin"),
        ("ACCOUNT", [A], ["metrics:write"], "'metrics:write'"),
        ("ACCOUNT", [], ["metrics:read"], "1 to 100 ids"),
        ("ACCOUNT", ["*"], ["metrics:read"], "'*'"),
        ("OPERATOR", ["platform"], ["metrics:read"], "'platform'"),
        ("PLATFORM", [A], ["metrics:read"], A),
        ("ACCOUNT", [f"{n:08x}-0000-0000-0000-000000000000" for n in range(101)], ["metrics:read"], "101"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused_by_name(
    scope: str, ids: list[str], permissions: list[str], named: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        make_grant(scope, ids, permissions)


def test_a_missing_permission_is_a_403_that_names_it() -> None:
    access.require(TENANT, "metrics:read")
    with pytest.raises(RequestError, match="events:write") as caught:
        access.require(TENANT, "events:write")

    assert caught.value.status == 403


def test_staff_see_what_they_ask_for() -> None:
    assert see(STAFF, None, None, parameter="scopeId") == Visible(None, None)
    assert see(STAFF, "ACCOUNT", (B,), parameter="scopeId") == Visible("ACCOUNT", (B,))


def test_a_tenant_sees_its_own_scope_and_ids_only() -> None:
    assert see(TENANT, None, None, parameter="scopeId") == Visible("ACCOUNT", (A,))
    assert see(TENANT, "ACCOUNT", (A,), parameter="scopeId") == Visible("ACCOUNT", (A,))
    assert see(TENANT, "OPERATOR", None, parameter="scopeId") is None
    assert see(TENANT, "PLATFORM", None, parameter="scopeId") is None


@pytest.mark.parametrize(
    ("scope", "ids"),
    [
        (None, (B,)),
        ("ACCOUNT", (B,)),
        (None, (A, B)),
        ("OPERATOR", (A,)),
        ("PLATFORM", ("platform",)),
        (None, ("platform",)),
    ],
)
def test_a_foreign_id_is_a_404_that_tells_nothing(scope: access.Scope | None, ids: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        see(TENANT, scope, ids, parameter="scopeId")

    assert (caught.value.status, caught.value.parameter) == (404, "scopeId")
    assert not any(text in str(caught.value) for text in ids)


@given(
    grant=st.builds(
        lambda scope, ids: make_grant(scope, ids if scope != "PLATFORM" else [], ["metrics:read"]),
        st.sampled_from(access.SCOPES),
        st.sets(st.uuids().map(str), min_size=1, max_size=3),
    ),
    scope=st.sampled_from([None, *access.SCOPES]),
    ids=st.none() | st.sets(st.sampled_from([A, B]), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
)
def test_what_is_visible_never_exceeds_the_grant(
    grant: Grant, scope: access.Scope | None, ids: tuple[str, ...] | None
) -> None:
    try:
        visible = see(grant, scope, ids, parameter="scopeId")
    except RequestError:
        return
    if grant.scope != "PLATFORM" and visible is not None:
        assert visible.scope == grant.scope
        assert visible.ids is not None
        assert grant.scope_ids.issuperset(visible.ids)


# --------------------------------------------------------------------------------------------------------- failed tries


def test_an_address_that_fails_too_often_has_to_wait() -> None:
    tries, now = Tries(), 1_000.0
    for _ in range(access.TRIES_MAX):
        assert tries.refuse_after("10.0.0.1", None, now) is None
        tries.failed("10.0.0.1", now)
        now += 0.1

    assert tries.refuse_after("10.0.0.1", None, now) == pytest.approx(8.0)
    assert tries.refuse_after("10.0.0.2", None, now) is None
    assert tries.refuse_after("10.0.0.1", None, now + access.TRIES_WINDOW_S) is None


def test_a_key_that_was_good_is_not_held_up_by_its_neighbours() -> None:
    tries = Tries()
    tries.succeeded("goodgoodgood")
    for _ in range(access.TRIES_MAX):
        tries.failed("10.0.0.1", 1.0)

    assert tries.refuse_after("10.0.0.1", "goodgoodgood", 2.0) is None
    assert tries.refuse_after("10.0.0.1", "otherother00", 2.0) is not None
    assert tries.requests == {"goodgoodgood": 1}


def test_memory_of_addresses_and_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "ADDRESSES_MAX", 3)
    tries = Tries()
    for number in range(10):
        tries.failed(f"10.0.0.{number}", 1.0)
        tries.succeeded(f"key{number}")

    assert len(tries._failures) == len(tries.requests) == 3
