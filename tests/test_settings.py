"""Settings: who wins over whom, and every unknown name and bad value is named before anything starts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from anlyt.errors import ConfigurationError
from anlyt.settings import CONFIG_VARIABLE, PREFIX, Settings, exposed_files, format_duration, load, parse_duration

if TYPE_CHECKING:
    from pathlib import Path


def test_without_anything_given_every_setting_has_its_default() -> None:
    assert load({}, {}) == Settings()


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "anlyt.toml"
    file.write_text('stream = "FILE"\ncurrency = "USD"\npartitions = 2\n')
    environment = {CONFIG_VARIABLE: str(file), "ANLYT_STREAM": "ENVIRONMENT", "ANLYT_CURRENCY": "GBP"}
    settings = load({"stream": "FLAG"}, environment)

    assert (settings.stream, settings.currency, settings.partitions) == ("FLAG", "GBP", 2)
    assert settings.http_port == Settings().http_port


def test_the_config_flag_wins_over_the_config_variable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f'stream = "{name}"')

    assert load({"config": tmp_path / "one"}, {CONFIG_VARIABLE: str(tmp_path / "two")}).stream == "one"


def test_a_flag_that_was_not_given_and_an_empty_variable_leave_what_is_below() -> None:
    assert load({"stream": None}, {"ANLYT_STREAM": "MINE", "ANLYT_CURRENCY": ""}) == Settings(stream="MINE")


def test_variables_of_other_programs_are_none_of_our_business() -> None:
    assert load({}, {"PATH": "/bin", "ANLYTICS": "x", "XANLYT_STREAM": "x"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("ignored_types", "message.a, message.b*,", ("message.a", "message.b*")),
        ("max_message_age", "36h", timedelta(hours=36)),
        ("partitions", "16", 16),
        ("batch_deadline_s", "2.5", 2.5),
        ("http_port", "0", 0),
        ("subjects", "tenant-1.events.>", "tenant-1.events.>"),
    ],
)
def test_text_becomes_the_value_it_says(variable: str, text: str, expected: object) -> None:
    assert getattr(load({}, {PREFIX + variable.upper(): text}), variable) == expected


BAD = [
    ("ARCHIVE_CLUSTER", "a'b", "pattern"),
    ("STREAM", "has space", "pattern"),
    ("STREAM", "a.b", "pattern"),
    ("SUBJECTS", "messaging.events", r"must be plain tokens and end in \.>"),
    ("SUBJECTS", "messaging.*.>", r"must be plain tokens and end in \.>"),
    ("PARTITIONS", "0", "greater than or equal to 1"),
    ("PARTITIONS", "17", "less than or equal to 16"),
    ("PARTITIONS", "two", "valid integer"),
    ("CURRENCY", "eur", "pattern"),
    ("CURRENCY", "EURO", "pattern"),
    ("MAX_MESSAGE_AGE", "7", "a number and a unit, like 90s, 15m, 48h or 7d"),
    ("MAX_MESSAGE_AGE", "0s", "more than 0s"),
    ("MAX_MESSAGE_AGE", "61d", "at most 60d"),
    ("BATCH_EVENTS_MAX", "0", "greater than or equal to 1"),
    ("BATCH_EVENTS_MAX", "100001", "less than or equal to"),
    ("BATCH_DEADLINE_S", "0", "greater than 0"),
    ("BATCH_DEADLINE_S", "601", "less than or equal to 600"),
    ("HTTP_PORT", "65536", "less than or equal to 65535"),
    ("HTTP_PORT", "-1", "greater than or equal to 0"),
    ("LOG_FORMAT", "xml", "'auto', 'console' or 'json'"),
    ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_bad_value_is_named_with_what_was_expected(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        load({}, {PREFIX + name: value})

    assert str(caught.value).startswith(f"{PREFIX}{name} is {value!r}, but ")


@pytest.mark.parametrize("layer", ["flag", "environment", "file"])
def test_an_unknown_name_is_refused_in_every_layer(layer: str, tmp_path: Path) -> None:
    (tmp_path / "anlyt.toml").write_text("streem = 'x'")
    flags, environment = {
        "flag": ({"streem": "x"}, {}),
        "environment": ({}, {"ANLYT_STREEM": "x"}),
        "file": ({"config": tmp_path / "anlyt.toml"}, {}),
    }[layer]

    with pytest.raises(ConfigurationError, match=r"(?i)streem"):
        load(flags, environment)


def test_an_unknown_variable_is_told_the_nearest_name_there_is() -> None:
    with pytest.raises(
        ConfigurationError, match=r"ANLYT_STREEM is not a setting of anlyt; did you mean ANLYT_STREAM\?"
    ):
        load({}, {"ANLYT_STREEM": "x"})


def test_a_password_is_never_shown() -> None:
    address = "postgresql://anlyt:hunter2@db/anlyt"
    settings = load({"database_url": address}, {})

    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    with pytest.raises(ConfigurationError) as caught:
        load({"database_url": [address]}, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"stream = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "anlyt.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=words) as caught:
        load({"config": file}, {})
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "7", "d", "1.5h", "-1h", "1 h", "7 days", "1w", "9999999999s"])
def test_a_duration_is_a_whole_number_and_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number and a unit"):
        parse_duration(text)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().stream = "OTHER"  # type: ignore[misc] - it is what must not work


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(days=7), "7 d"),
        (timedelta(days=1), "24 h"),
        (timedelta(minutes=1), "60 s"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(seconds=1.5), "1.5 s"),
        (timedelta(milliseconds=40), "40 ms"),
        (timedelta(0), "0 s"),
    ],
)
def test_a_duration_is_written_in_one_unit(length: timedelta, words: str) -> None:
    assert format_duration(length) == words


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8123",
        "chdb://directory",
        "chdb://",
        "clickhouse://me:pass@/db",
        "clickhouse://me:pass@host:0x/db",
        "clickhouse://me:pass@host/a-b",
        "clickhouse://me:pass@host/db?secure=1",
    ],
)
def test_an_address_of_no_archive_is_refused_and_never_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ANLYT_ARCHIVE_URL must be clickhouse://") as caught:
        load({}, {"ANLYT_ARCHIVE_URL": url})

    assert "me:pass@" not in str(caught.value)


TRUST = {
    "ANLYT_JWKS_URL": "https://issuer.test/jwks.json",
    "ANLYT_JWT_ISSUER": "https://issuer.test",
    "ANLYT_JWT_AUDIENCE": "anlyt",
}


def test_tokens_are_checked_by_keys_issuer_and_audience_or_not_taken() -> None:
    assert load({}, TRUST).jwt_audience == "anlyt"
    assert load({}, {}).jwks_url is None
    for missing in TRUST:
        others = {name: value for name, value in TRUST.items() if name != missing}
        with pytest.raises(ConfigurationError, match=f"^{missing} must be set too"):
            load({}, others)
    with pytest.raises(ConfigurationError, match="ANLYT_JWT_ISSUER and ANLYT_JWT_AUDIENCE must be set too"):
        load({}, {"ANLYT_JWKS_URL": "https://issuer.test/jwks.json"})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/keys", "http://localhost/keys", "http://[::1]:1/k", "https://a/k?b"]
)
def test_keys_may_come_over_tls_or_from_this_machine(url: str) -> None:
    assert load({}, TRUST | {"ANLYT_JWKS_URL": url}).jwks_url == url


@pytest.mark.parametrize(
    "url",
    [
        *("http://issuer.test/keys", "http://127.0.0.1.evil.test/", "http://localhost.evil.test/", "ftp://127.0.0.1/k"),
        *("file:///etc/passwd", "issuer.test/keys", "https://", "https://user:pw@issuer.test/k", "https://a:99999/"),
        *("https://a/#b", "https://a/\nb"),
    ],
)
def test_keys_that_somebody_could_swap_on_the_way_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ANLYT_JWKS_URL is .* but must be https"):
        load({}, TRUST | {"ANLYT_JWKS_URL": url})


def test_origins_are_a_list_of_exact_ones() -> None:
    given = "https://app.example.com, http://localhost:5173,https://[::1]:8443"

    assert load({}, {"ANLYT_CORS_ORIGINS": given}).cors_origins == tuple(given.replace(" ", "").split(","))
    assert load({}, {}).cors_origins == ()


@pytest.mark.parametrize(
    "origins", ["*", "null", "https://*.example.com", "https://a.test/", "a.test", "https://A.test", "https://a.test/x"]
)
def test_origins_that_could_be_anybody_are_refused(origins: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ANLYT_CORS_ORIGINS is .* but must be at most 20 origins"):
        load({}, {"ANLYT_CORS_ORIGINS": f"https://good.test,{origins}"})


@pytest.mark.parametrize(
    ("mode", "url", "told"),
    [
        (0o600, "postgresql://anlyt:secret@h/a", False),
        (0o640, "postgresql://anlyt:secret@h/a", True),
        (0o604, "postgresql://anlyt:secret@h/a", True),
        (0o644, "postgresql:///a", False),
    ],
)
def test_a_file_with_a_password_that_others_may_read_is_told(tmp_path: Path, mode: int, url: str, told: bool) -> None:  # noqa: FBT001 - a column of a table
    file = tmp_path / "anlyt.toml"
    file.write_text(f'database_url = "{url}"')
    file.chmod(mode)

    for flags, environment in (({"config": str(file)}, {}), ({}, {"ANLYT_CONFIG": str(file)})):
        assert exposed_files(load(flags, environment), flags, environment) == ([file] if told else [])
    assert exposed_files(load({}, {}), {}, {}) == []


@pytest.mark.parametrize("name", ["nats_key_file", "nats_creds_file", "nats_nkey_file"])
def test_a_file_with_a_key_that_others_may_read_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text("secret")
    environment = {f"ANLYT_{name.upper()}": str(file), "ANLYT_NATS_URL": "tls://nats:4222"}
    if name == "nats_key_file":
        environment["ANLYT_NATS_CERT_FILE"] = str(file)
    found: list[list[Path]] = []
    for mode in (0o600, 0o640, 0o604):
        file.chmod(mode)
        found.append(exposed_files(load({}, environment), {}, environment))
    file.unlink()

    assert found == [[], [file], [file]]
    assert exposed_files(load({}, environment), {}, environment) == []
