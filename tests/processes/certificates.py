"""A certificate authority for tests: what it issues can be good, or bad in any way that a peer's may be."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM files."""

    certificate: Path
    private_key: Path

    def server_context(self) -> ssl.SSLContext:
        """What a server that shows this certificate needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.private_key)
        return context


class Authority:
    """A certificate authority; `file` is to be trusted by those who shall believe it."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / "authority.pem"
        certificate = (
            _builder(self._name, self._key, timedelta(days=30), issuer=(self._name, self._key))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        *names: str,
        lifetime: timedelta = 10 * _DAY,
        is_self_signed: bool = False,
        is_of_old: bool = False,
        to: str | None = None,
    ) -> Certificate:
        """A certificate for host names and addresses; with a lifetime below zero it has expired.

        One as of old has the first name as its common name alone. `to` names its files, which are written anew if they
        are there.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        issuer = (subject, key) if is_self_signed else (self._name, self._key)
        builder = _builder(subject, key, lifetime, issuer=issuer)
        if not is_of_old:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(issuer[1], SHA256())
        stem = to or names[0].replace("*", "any")
        issued = Certificate(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        issued.private_key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        issued.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        return issued


_Party = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta, *, issuer: _Party
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    name, signing_key = issuer
    return (
        x509.CertificateBuilder(issuer_name=name)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 20 * _DAY)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
