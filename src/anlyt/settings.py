"""The settings of one process: flag > environment (ANLYT_*) > TOML file > default, checked before anything starts.

In: the environment, an optional TOML file, flags. Out: one frozen Settings, or ConfigurationError that names the
setting, the value and what was expected. This is the only module that reads the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "ANLYT_"
CONFIG_VARIABLE: Final = "ANLYT_CONFIG"
PARTITIONS_MAX: Final = 16
STREAM_REPLICAS_MAX: Final = 5  # as JetStream has it
MESSAGE_AGE_MAX: Final = timedelta(days=60)
ORIGINS_MAX: Final = 20
MONITORS_MAX: Final = 20
OTHERS_MAY_READ: Final = 0o044  # of a file's mode
_MONITOR: Final = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/?")
_ORIGIN: Final = re.compile(r"https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


class Settings(BaseModel):
    """Every setting; the variable of `field` is ANLYT_<FIELD>."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr | None = Field(None, description="postgresql:// address; several hosts may be listed")
    nats_url: SecretStr | None = Field(None, description="nats:// or tls:// address; several separated by commas")
    nats_ca_file: Path | None = Field(
        None, description="certificates (PEM) of whoever signs NATS servers; nothing is sent without TLS then"
    )
    nats_cert_file: Path | None = Field(None, description="certificate (PEM) that this process shows to NATS")
    nats_key_file: Path | None = Field(None, description="private key (PEM) of that certificate")
    nats_creds_file: Path | None = Field(None, description="creds file (JWT and seed) of this process's NATS user")
    nats_nkey_file: Path | None = Field(None, description="file with the nkey seed of this process's NATS user")
    nats_inbox: str = Field(
        "_INBOX",
        pattern=r"^[A-Za-z0-9_-]{1,32}(\.[A-Za-z0-9_-]{1,32}){0,3}$",
        description="prefix of the subjects NATS answers to; of one's own, no other user can listen in",
    )
    nats_monitor_urls: tuple[str, ...] = Field(
        (),
        description="monitoring addresses of the NATS servers (comma-separated), like http://nats:8222, where anlyt "
        "doctor asks whether what they acknowledge is on disk",
    )
    archive_url: SecretStr | None = Field(
        None,
        description="clickhouse://, clickhouses:// (TLS) or chdb:///directory (embedded); unset: there is no archive",
    )
    archive_cluster: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-]{0,64}$",
        description="ClickHouse cluster whose servers hold the archive; empty: one server",
    )
    stream: str = Field("MESSAGING", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="name of the JetStream stream")
    stream_replicas: int = Field(
        1, ge=1, le=STREAM_REPLICAS_MAX, description="servers of a NATS cluster that hold the stream, when it is made"
    )
    subjects: str = Field("messaging.events.>", description="subjects of the stream; ends in .>")
    partitions: int = Field(
        1, ge=1, le=PARTITIONS_MAX, description="parts of the stream counted side by side; the same for all workers"
    )
    ignored_types: tuple[str, ...] = Field((), description="event types (globs, comma-separated) that are skipped")
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217 code all costs are in")
    max_message_age: timedelta = Field(
        timedelta(days=7),
        description="events about messages submitted longer ago are too_late",
    )
    batch_events_max: int = Field(20_000, ge=1, le=100_000, description="events counted in one transaction")
    dead_letter_share_max: float = Field(
        0.999,
        ge=0.5,
        le=1,
        description="a worker stops when more than this share of a partition's events cannot be understood, by 20,000 "
        "events; 1: never",
    )
    batch_deadline_s: float = Field(30.0, gt=0, le=600, description="a batch that takes longer is given up and retried")
    data_dir: Path = Field(Path(".anlyt"), description="where embedded servers keep their data")
    http_host: str = Field("127.0.0.1", min_length=1, description="address the API listens on")
    http_port: int = Field(8080, ge=0, le=65535, description="port the API listens on; 0 takes a free one")
    cors_origins: tuple[str, ...] = Field(
        (), description="origins (comma-separated) whose pages may call the API, like https://app.example.com"
    )
    requests_per_s: int = Field(
        500, ge=1, le=100_000, description="requests one key or token may send a second, to each API process"
    )
    jwks_url: str | None = Field(
        None, description="where the token issuer publishes its keys; https, or http on loopback"
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="the iss that tokens must carry")
    jwt_audience: str | None = Field(None, min_length=1, description="the aud that tokens must carry")
    names_file: Path | None = Field(
        None, description="JSON file of display names of operators and accounts, for the page"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal, else json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    crash_points: str = Field("", description="tests only: NAME=PROBABILITY,... kills the process at named lines")

    @field_validator("subjects")
    @classmethod
    def _subjects_end_open(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.>", value):
            msg = "must be plain tokens and end in .> (like messaging.events.>)"
            raise ValueError(msg)
        return value

    @field_validator("nats_url")
    @classmethod
    def _nats_is_known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(_is_nats(part) for part in value.get_secret_value().split(",")):
            msg = (
                "must be nats://user:password@host:4222 or tls://..., several separated by commas; characters like "
                "/ @ : in a password are percent-encoded"
            )
            raise ValueError(msg)
        return value

    @field_validator("archive_url")
    @classmethod
    def _archive_is_known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_archive(value.get_secret_value()):
            msg = (
                "must be clickhouse://user:password@host:8123/database, clickhouses://... (TLS), or "
                "chdb:///directory with an absolute path; characters like / @ : in a password are percent-encoded"
            )
            raise ValueError(msg)
        return value

    @field_validator("jwks_url")
    @classmethod
    def _keys_come_safely(cls, value: str | None) -> str | None:
        if value is not None and not _is_safe(value):
            msg = "must be https://host/..., or http:// with a loopback address, without user, password and fragment"
            raise ValueError(msg)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [origin for origin in value if not _ORIGIN.fullmatch(origin)]
        if wrong or len(value) > ORIGINS_MAX:
            msg = f"must be at most {ORIGINS_MAX} origins like https://app.example.com: lower case, no path, no *"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _tokens_are_checked_whole(self) -> Self:
        parts = {"JWKS_URL": self.jwks_url, "JWT_ISSUER": self.jwt_issuer, "JWT_AUDIENCE": self.jwt_audience}
        missing = [PREFIX + name for name, value in parts.items() if value is None]
        if missing and len(missing) < len(parts):
            msg = (
                f"{' and '.join(missing)} must be set too: a token is checked by the issuer's keys, its issuer and its "
                "audience, or not taken at all"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _nats_files_fit_together(self) -> Self:
        files = {name: getattr(self, name) for name in type(self).model_fields if re.fullmatch("nats_.*_file", name)}
        given = [PREFIX + name.upper() for name, path in files.items() if path is not None]
        if given and self.nats_url is None:
            msg = f"{given[0]} says how to reach the NATS server of ANLYT_NATS_URL, which is not set"
            raise ValueError(msg)
        if (self.nats_cert_file is None) != (self.nats_key_file is None):
            msg = "ANLYT_NATS_CERT_FILE and ANLYT_NATS_KEY_FILE are set together: a certificate and its key"
            raise ValueError(msg)
        if self.nats_creds_file is not None and self.nats_nkey_file is not None:
            msg = "ANLYT_NATS_CREDS_FILE and ANLYT_NATS_NKEY_FILE are two ways to be one user; set one of them"
            raise ValueError(msg)
        return self

    @field_validator("nats_monitor_urls")
    @classmethod
    def _monitors_are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [url for url in value if not _MONITOR.fullmatch(url)]
        if wrong or len(value) > MONITORS_MAX:
            msg = f"must be at most {MONITORS_MAX} addresses like http://nats:8222, without user, password and path"
            raise ValueError(msg)
        return value

    @field_validator("ignored_types", "cors_origins", "nats_monitor_urls", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("max_message_age", mode="before")
    @classmethod
    def _read_duration(cls, value: object) -> object:
        age = parse_duration(value) if isinstance(value, str) else value
        if isinstance(age, timedelta) and not timedelta(0) < age <= MESSAGE_AGE_MAX:
            msg = f"must be more than 0s and at most {MESSAGE_AGE_MAX.days}d, well under hot retention"
            raise ValueError(msg)
        return age


def load(flags: Mapping[str, object], environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings. `flags` with a value of None were not given.

    Raises ConfigurationError for an unknown name, an invalid value, or an unreadable file.
    """
    environment = os.environ if environment is None else environment
    given: dict[str, Any] = {}
    path = flags.get("config") or environment.get(CONFIG_VARIABLE)
    if path:
        given |= _read_file(Path(str(path)))
    given |= _read_environment(environment)
    given |= _read_flags(flags)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def exposed_files(
    settings: Settings, flags: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> list[Path]:
    """Files with a secret in them that others than their owner may read.

    The settings file counts when it holds an address with a password; files that are not there do not.
    """
    environment = os.environ if environment is None else environment
    given = flags.get("config") or environment.get(CONFIG_VARIABLE)
    paths = [settings.nats_key_file, settings.nats_creds_file, settings.nats_nkey_file]
    if given and _holds_password(Path(str(given))):
        paths.insert(0, Path(str(given)))
    return [path for path in paths if path is not None and path.is_file() and path.stat().st_mode & OTHERS_MAY_READ]


def _holds_password(path: Path) -> bool:
    secret = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    return any("@" in str(value) for name, value in _read_file(path).items() if name in secret)


def _is_safe(url: str) -> bool:
    """Whether what is read there can be trusted: TLS, or a process of this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    if not parts.hostname or "@" in parts.netloc or parts.fragment or not url.isascii() or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"})


def _is_nats(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment and parts.path in {"", "/"}
    return parts.scheme in {"nats", "tls"} and bool(parts.hostname) and plain


def _is_archive(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return False
    if parts.query or parts.fragment:
        return False
    if parts.scheme == "chdb":
        return not parts.netloc and len(parts.path) > 1
    database = parts.path.removeprefix("/")
    named = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}|", database) is not None
    return parts.scheme in {"clickhouse", "clickhouses"} and bool(parts.hostname) and port_is_fine and named


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `48h`, `7d` as a timedelta. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        msg = "must be a number and a unit, like 90s, 15m, 48h or 7d"
        raise ValueError(msg)
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def format_duration(value: timedelta) -> str:
    """In the largest unit that gives a whole number above two: 48 h, 7 d, 1.5 s, 40 ms."""
    seconds = value.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds > 2 * size and seconds % size == 0:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:g} ms"


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    found: dict[str, str] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise ConfigurationError(f"{variable} is not a setting of anlyt; {_nearest(variable, list(known))}")
        if value != "":
            found[known[variable]] = value
    return found


def _read_flags(flags: Mapping[str, object]) -> dict[str, object]:
    found = {name: value for name, value in flags.items() if value is not None and name != "config"}
    for name in found:
        if name not in Settings.model_fields:
            raise ConfigurationError(f"{name} is not a setting of anlyt; {_nearest(name, list(Settings.model_fields))}")
    return found


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {path} is not valid TOML: {error}") from None
    for name in values:
        if name not in Settings.model_fields:
            raise ConfigurationError(
                f"{name} in {path} is not a setting; {_nearest(name, list(Settings.model_fields))}"
            )
    return values


def _nearest(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only needed to word an error

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the settings are {', '.join(sorted(known))}"


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:  # what is wrong lies between several settings; the sentence names them
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0])
    secret = Settings.model_fields[name].annotation if name in Settings.model_fields else None
    shown = "" if "Secret" in str(secret) else f" is {first['input']!r}, but"
    return f"{PREFIX}{name.upper()}{shown} {first['msg'].removeprefix('Value error, ')}"
