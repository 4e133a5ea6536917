"""Servers that ask who is there: certificates, nkeys and creds made on the spot, and servers that ask for them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import ipaddress
import json
import signal
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from anlyt import keeper
from anlyt.embedded import NATS_WHEELS
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3  # the first letter of a public nkey: O, A, U


# ----------------------------------------------------------------------------------------------------- certificates


class Authority(NamedTuple):
    """Who signs certificates."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    file: Path


class Certificate(NamedTuple):
    """Files of a certificate and its key."""

    cert: Path
    key: Path


def authority(directory: Path, name: str) -> Authority:
    """A certificate authority of its own."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
    made = _certificate(subject, subject, key.public_key())
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(
        x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        ),
        critical=True,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signed = made.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
    file = directory / f"{name}.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return Authority(subject, key, file)


def certificate(directory: Path, name: str, signed_by: Authority, *hosts: str) -> Certificate:
    """A certificate for these host names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(_name(name), signed_by.name, key.public_key())
    names = [_host(host) for host in hosts] or [x509.DNSName(name)]
    made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.key.public_key())
    signed = made.add_extension(issuer, critical=False).sign(signed_by.key, hashes.SHA256())
    files = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
    files.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files.key.chmod(0o600)
    return files


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    return x509.DNSName(host) if host.isalpha() else x509.IPAddress(ipaddress.ip_address(host))


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=2))


# ------------------------------------------------------------------------------------------------------------ nkeys


class Nkey(NamedTuple):
    """A key pair as NATS writes it."""

    public: str
    seed: str
    key: Ed25519PrivateKey


def nkey(kind: int = USER) -> Nkey:
    """A new key pair of a user, an account or an operator."""
    key = Ed25519PrivateKey.generate()
    seed = bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + key.private_bytes_raw()
    return Nkey(_text(bytes([kind]) + key.public_key().public_bytes_raw()), _text(seed), key)


def _text(data: bytes) -> str:
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def token(subject: Nkey, issuer: Nkey, kind: str, **claims: Any) -> str:
    """A JWT of NATS: the issuer says what the subject is."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {"jti": "test", "iat": 1_700_000_000, "iss": issuer.public, "name": kind, "sub": subject.public}
    parts = [_encode(head), _encode(body | {"nats": {"type": kind, "version": 2} | claims})]
    signature = issuer.key.sign(".".join(parts).encode())
    return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


def _encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def creds_file(path: Path, jwt: str, seed: str) -> Path:
    """A creds file as nsc writes it."""
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"************************* IMPORTANT *************************\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return path


# ------------------------------------------------------------------------------------------------------ nats-server


@asynccontextmanager
async def nats_with(directory: Path, configuration: str, *, jetstream: bool = True) -> AsyncGenerator[int]:
    """A nats-server of this configuration with JetStream in `directory`; its port."""
    program = keeper.Program("nats-server", NATS_WHEELS, "nats.pid", signal.SIGTERM)
    executable = keeper._find_executable(program, None)
    config = directory / "nats.conf"
    store = f'jetstream {{ store_dir: "{directory}/js" }}\nfeature_flags {{ js_ack_fc_v2: false }}' if jetstream else ""
    config.write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}"\n{store}\n{configuration}\n')
    process = _start([str(executable), "-c", str(config)], directory / "nats.log")
    ports = directory / f"nats-server_{process.pid}.ports"

    def port() -> int | None:
        assert process.poll() is None, (directory / "nats.log").read_text()
        try:
            return int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])
        except (FileNotFoundError, ValueError):
            return None

    try:
        yield await wait_until(port, 30, what="nats-server listens")
    finally:
        process.terminate()
        process.wait(20)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


# ------------------------------------------------------------------------------------------------------- PostgreSQL

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # what a client of PostgreSQL asks with before anything else


@asynccontextmanager
async def postgres_over_tls(server_port: int, made: Certificate) -> AsyncGenerator[int]:
    """A port that speaks TLS as PostgreSQL does and hands on to a real one (the embedded build knows no TLS)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            assert await reader.readexactly(8) == SSL_REQUEST, "this client did not ask for TLS"
            writer.write(b"S")
            await writer.start_tls(context)
            upstream, downstream = await asyncio.open_connection("127.0.0.1", server_port)
            await asyncio.gather(relay(reader, downstream), relay(upstream, writer))
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as proxy:
        yield proxy.sockets[0].getsockname()[1]
