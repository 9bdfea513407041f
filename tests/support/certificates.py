"""Certificates for servers that tests start: an authority of the test's own, and what it vouches for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Its own certificate is in `file`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.stem)])
        builder = _valid_now(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates
        own = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, path: Path, address: str, *, days: int = 0, common_name_only: bool = False) -> tuple[Path, Path]:
        """A certificate for a server at this IP address, and its key, in files whose names begin with `path`.

        It is in force from a day ago until tomorrow, or so many days later. With `common_name_only` it names the
        address where nobody should look for it any more.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        builder = _valid_now(subject, self._name, key.public_key(), days)
        if not common_name_only:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        signed = builder.add_extension(self._identifier, critical=False).sign(self._key, hashes.SHA256())
        return _write(path, signed, key)


def self_signed(path: Path, address: str) -> tuple[Path, Path]:
    """A certificate that a server has given to itself, and its key, as Authority.issue() gives them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    signed = _valid_now(name, name, key.public_key()).add_extension(names, critical=False).sign(key, hashes.SHA256())
    return _write(path, signed, key)


def _write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
    files = path.with_suffix(".pem"), path.with_suffix(".key")
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def _valid_now(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 0
) -> x509.CertificateBuilder:
    now = datetime.now(UTC) + timedelta(days=days)
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1)
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
