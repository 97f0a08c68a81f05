"""Certificates for sharing beyond loopback: the owner's own, or a certificate authority of this home.

The authority's key never leaves the home, and its certificate is what a colleague's client is told to trust. Formats:
X.509 v3 (RFC 5280) as PEM, keys ECDSA on P-256.
"""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loket.contracts import BadInput
from loket.durable import write_private

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""Days for which a server's certificate is good; clients on some systems take no longer ones."""

_RENEWED_DAYS = 30
"""Days before its end from which a certificate is made anew."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of a server's certificate: its chain, its key, and the authority to trust (None where it is not ours)."""

    chain: Path
    key: Path
    authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A server's context, TLS 1.2 at least. Raises `BadInput` (`share.certificate`) where the files do not fit."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            made.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise BadInput(
                "share.certificate",
                f"the certificate {self.chain} with the key {self.key} cannot be used: {error}",
                "give share.certificate and share.key PEM files that belong together, or leave both out",
            ) from None
        return made


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def own(folder: Path, names: Sequence[str], now: dt.datetime) -> Certificate:
    """The home's own certificate for these names and addresses, made where there is none that is still good."""
    folder.mkdir(mode=0o700, exist_ok=True)
    authority, key = _authority(folder, now)
    certificate = Certificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    if not _good(certificate, authority, names, now):
        _issue(certificate, authority, key, names, now)
    return certificate


def _authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    place, secret = folder / "ca.pem", folder / "ca.key"
    if place.exists() and secret.exists():
        key = serialization.load_pem_private_key(secret.read_bytes(), None)
        found = x509.load_pem_x509_certificate(place.read_bytes())
        if isinstance(key, ec.EllipticCurvePrivateKey) and found.not_valid_after_utc > _later(now, SERVER_DAYS):
            return found, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loket home authority")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(secret, _pem(key))
    write_private(place, made.public_bytes(serialization.Encoding.PEM))
    return made, key


def _issue(
    certificate: Certificate,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: dt.datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loket")])
    made = (
        _builder(subject, authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_private(certificate.key, _pem(key))
    write_private(certificate.chain, made.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(_later(now, days))
    )


def _good(certificate: Certificate, authority: x509.Certificate, names: Sequence[str], now: dt.datetime) -> bool:
    """Whether the certificate that is there is this authority's, for these names, and for a while yet."""
    if not (certificate.chain.exists() and certificate.key.exists()):
        return False
    found = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
    try:
        found.verify_directly_issued_by(authority)
        given = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return list(given) == [_general(name) for name in names] and found.not_valid_after_utc > _later(now, _RENEWED_DAYS)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _later(now: dt.datetime, days: int) -> dt.datetime:
    return now + dt.timedelta(days=days)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
