"""How a process shows NATS who it is, and how it knows that it is NATS: TLS, client certificates, nkeys, creds files.

In: settings. Out: an Identity, checked before anything is sent, and the options nats-py connects with. Where TLS is
asked for, nothing is sent to a server that offers none. Seeds and tokens are read again for every connection, so that a
file that was replaced counts from the next one on; nothing of them is kept, logged or shown.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from pathlib import Path  # noqa: TC003 - msgspec reads the annotations of Identity
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anlyt.settings import Settings

FILE_BYTES_MAX: Final = 65_536
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
VERIFYING_MODE: Final = "verify-full"  # the only sslmode that knows whom it talks to
_SECTION: Final = re.compile(r"-{3,}BEGIN ([A-Z ]+)-{3,}\s+(\S+)\s+-{3,}END \1-{3,}")
_SEED_PREFIX: Final = 18 << 3  # S
_USER_PREFIX: Final = 20 << 3  # U
_SEED_BYTES: Final = 36  # two of prefix, the seed, two of checksum

Found = TypeVar("Found")


class Identity(Struct, frozen=True):
    """The files that say who we are and whom we trust; None where the setting is not given."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    creds_file: Path | None = None
    nkey_file: Path | None = None
    inbox: str = "_INBOX"


def identity_of(settings: Settings) -> Identity:
    """What the settings say."""
    return Identity(
        ca_file=settings.nats_ca_file,
        cert_file=settings.nats_cert_file,
        key_file=settings.nats_key_file,
        creds_file=settings.nats_creds_file,
        nkey_file=settings.nats_nkey_file,
        inbox=settings.nats_inbox,
    )


def needs_tls(url: str, identity: Identity) -> bool:
    """Whether a connection in plain text is out of the question."""
    return identity.ca_file is not None or identity.cert_file is not None or "tls://" in url


def public_key(identity: Identity) -> str | None:
    """The public nkey of the seed in `nkey_file`; None without one. Raises ConfigurationError."""
    if identity.nkey_file is None:
        return None
    return _public_text(_nkey_of(identity.nkey_file))


def connect_options(identity: Identity) -> dict[str, Any]:
    """Options of nats-py's connect. Raises ConfigurationError for a file that is missing or holds something else."""
    options: dict[str, Any] = {"inbox_prefix": identity.inbox}
    if identity.ca_file is not None or identity.cert_file is not None:
        options["tls"] = _context(identity)
    if identity.creds_file is not None:
        creds_file = identity.creds_file
        _creds_of(creds_file)  # what is wrong with it shows now

        def token() -> bytes:
            return _again(_creds_of, creds_file)[0].encode()

        options["user_jwt_cb"] = token
        options["signature_cb"] = _signer(lambda: _again(_creds_of, creds_file)[1])
    elif identity.nkey_file is not None:
        nkey_file = identity.nkey_file
        options["signature_cb"] = _signer(lambda: _again(_nkey_of, nkey_file))
    return options


def _again(read: Callable[[Path], Found], path: Path) -> Found:
    """Read while connecting; what went missing meanwhile is a failed connection, which is tried again."""
    try:
        return read(path)
    except ConfigurationError as error:
        raise nats.errors.Error(str(error)) from None


def _signer(seed: Callable[[], bytes]) -> Callable[[str], bytes]:
    """What nats-py calls to answer a server's challenge."""

    def sign(nonce: str) -> bytes:
        return base64.b64encode(Ed25519PrivateKey.from_private_bytes(seed()).sign(nonce.encode()))

    return sign


def _context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.2 or newer, the server's certificate and name verified."""
    try:
        context = ssl.create_default_context(cafile=identity.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unreadable("NATS_CA_FILE", identity.ca_file, error) from None
    if identity.cert_file is not None:
        try:
            context.load_cert_chain(identity.cert_file, identity.key_file)
        except (OSError, ssl.SSLError) as error:
            raise _unreadable("NATS_CERT_FILE", identity.cert_file, error) from None
    return context


def _unreadable(setting: str, path: Path | None, error: OSError) -> ConfigurationError:
    cause = error.strerror or type(error).__name__
    return ConfigurationError(f"ANLYT_{setting}: {path} cannot be used: {cause}; it must be a file in PEM")


# ---------------------------------------------------------------------------------------------------------- nkeys


def _read(path: Path, setting: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(f"ANLYT_{setting}: {path} cannot be read: {error.strerror}") from None


def _creds_of(path: Path) -> tuple[str, bytes]:
    """The user's JWT and seed in a creds file."""
    sections = dict(_SECTION.findall(_read(path, "NATS_CREDS_FILE")))
    token, seed = sections.get("NATS USER JWT"), sections.get("USER NKEY SEED")
    if token is None or seed is None:
        raise ConfigurationError(
            f"ANLYT_NATS_CREDS_FILE: {path} holds no user JWT and seed; it must be as `nsc generate creds` writes it"
        )
    return token, _seed_of(path, seed)


def _nkey_of(path: Path) -> bytes:
    return _seed_of(path, _read(path, "NATS_NKEY_FILE"))


def _seed_of(path: Path, text: str) -> bytes:
    """The 32 bytes of a user's seed. Raises ConfigurationError, which never shows it."""
    text = text.strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    kind = ((raw[0] & 7) << 5 | raw[1] >> 3) if len(raw) == _SEED_BYTES else 0
    if kind != _USER_PREFIX or raw[0] & 0xF8 != _SEED_PREFIX or raw[-2:] != _checksum(raw[:-2]):
        raise ConfigurationError(f"{path} holds no seed of a NATS user; it begins with SU and has 58 characters")
    return raw[2:-2]


def _public_text(seed: bytes) -> str:
    public = bytes([_USER_PREFIX]) + Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return base64.b32encode(public + _checksum(public)).decode().rstrip("=")


def _checksum(data: bytes) -> bytes:
    """CRC-16/XMODEM, little end first, as nkeys have it."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


# ------------------------------------------------------------------------------------------------------ plain text


def plain_hosts(settings: Settings) -> dict[str, list[str]]:
    """Hosts that are not this machine and to which a setting leads without a verified TLS connection, by setting."""
    found: dict[str, list[str]] = {}
    if settings.database_url is not None:
        parts = urlsplit(settings.database_url.get_secret_value())
        if parse_qs(parts.query).get("sslmode", [""])[-1] != VERIFYING_MODE:
            found["ANLYT_DATABASE_URL"] = _hosts(parts.netloc)
    if settings.nats_url is not None and settings.nats_ca_file is None:
        plain = [url for url in settings.nats_url.get_secret_value().split(",") if not url.startswith("tls://")]
        found["ANLYT_NATS_URL"] = [host for url in plain for host in _hosts(url.rpartition("//")[2])]
    if settings.archive_url is not None:
        parts = urlsplit(settings.archive_url.get_secret_value())
        found["ANLYT_ARCHIVE_URL"] = _hosts(parts.netloc) if parts.scheme == "clickhouse" else []
    far = {name: [host for host in hosts if host not in LOOPBACK_HOSTS] for name, hosts in found.items()}
    return {name: hosts for name, hosts in far.items() if hosts}


def _hosts(netloc: str) -> list[str]:
    """The hosts of an address, without user, password and ports. An empty one is a socket of this machine."""
    hosts = netloc.rpartition("@")[2].split(",")
    names = [host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0] for host in hosts]
    return [name for name in names if name]
