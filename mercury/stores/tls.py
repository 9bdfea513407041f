"""TLS to MySQL, Redis and Sentinel: when a server is believed to be what it says, and what is said if it is not.

Its certificate is in force, leads up to an authority that is trusted, and names the host that was connected to as one
of its subjectAltNames (RFC 9525; a common name does not count). TLS 1.2 and later. Nothing but the handshake, and for
MySQL the wish for it, is sent before that is so; and if it is not, nothing is sent at all, least of all in clear.

pymysql works with Python's ssl, Twisted with pyOpenSSL; both say by OpenSSL's numbers what is wrong with a certificate.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from mercury.errors import MercuryError

RETRY_AFTER: Final = 1.0  # seconds

#: OpenSSL's numbers, X509_V_ERR_...; of an authority that is not found, is not trusted, or is the server itself.
NOT_YET, EXPIRED, UNKNOWN, OTHER_NAME = 9, 10, {2, 18, 19, 20, 21}, {62, 64}


@dataclass(frozen=True)
class EngineTls:
    """How TLS to an engine is to be. `section`: of its settings. `ca`: a file of certificates (PEM) to trust in place
    of the system's. `cert`, `key`: files (PEM) with what to show a server that asks who we are; both, or neither."""

    section: str
    ca: str = ""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """For pymysql, which has names checked as well. MercuryError if a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ValueError) as error:
            raise self._unusable("tls-ca", self.ca, error) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
            except (OSError, ValueError) as error:
                raise self._unusable("tls-cert", f"{self.cert} with {self.key}", error) from None
        return context

    def check(self, host: str, setting: str) -> CertificateCheck:
        """For one connection by Twisted, to a host that the setting leads to. MercuryError if a file cannot be used."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        try:
            if self.ca:
                open(self.ca, "rb").close()  # OpenSSL does not say so clearly that it is not there
                context.load_verify_locations(self.ca)
            else:
                context.set_default_verify_paths()
        except (OSError, SSL.Error) as error:
            raise self._unusable("tls-ca", self.ca, error) from None
        try:
            if self.cert:
                open(self.cert, "rb").close()
                context.use_certificate_chain_file(self.cert)
                key: Any = load_pem_private_key(Path(self.key).read_bytes(), None)
                context.use_privatekey(key)
                context.check_privatekey()
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm, SSL.Error) as error:
            raise self._unusable("tls-cert", f"{self.cert} with {self.key}", error) from None
        return CertificateCheck(self, host, setting, context)

    def _unusable(self, flag: str, files: str, error: Exception) -> MercuryError:
        why: str | None = "it is not unencrypted PEM of the right kind"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            why = error.strerror
        return MercuryError("unavailable", f"--{self.section}.{flag}: {files} cannot be read: {why}", RETRY_AFTER)

    # What is said

    def explained(self, error: BaseException, host: str) -> str | None:
        """What kept pymysql from speaking TLS, in words; None if it was not that."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self.refusal(error.verify_code, host, f"{self.section}.host")
        return self.fault(str(error)) if isinstance(error, ssl.SSLError) else None

    def refusal(self, code: int, host: str, setting: str) -> str:
        """What is wrong with a server's certificate, and which setting has to do with it."""
        if code in UNKNOWN:
            by = f"the authorities in {self.ca}" if self.ca else "an authority that this system trusts"
            return f"its certificate is not signed by {by}: set --{self.section}.tls-ca to a file with its authority"
        if code in OTHER_NAME:
            return (
                f"its certificate is not valid for {host} (--{setting}): use a name that it has, or add this one to it"
            )
        wrong = {
            EXPIRED: "has expired: renew it",
            NOT_YET: "is not valid yet: check the clocks of both machines",
        }.get(code, f"is refused: error {code} of OpenSSL's verify")
        return f"its certificate, which --{self.section}.tls has checked, {wrong}"

    def fault(self, why: str) -> str:
        """TLS fails, for another reason than the server's certificate."""
        if "certificate required" in why.lower().replace("_", " "):
            return f"it requires a client certificate: set --{self.section}.tls-cert and --{self.section}.tls-key"
        return f"no TLS connection, but --{self.section}.tls requires one ({why}): does this port speak TLS 1.2 or 1.3?"


@implementer(IOpenSSLClientConnectionCreator)
class CertificateCheck:
    """Makes one TLS connection and has the server's certificate checked: its chain in the handshake, by OpenSSL; then,
    before anything is sent, its names by service_identity.

    Twisted's optionsForClientTLS does not do: it does not say why a certificate is refused, and lets pass one without
    any subjectAltName (26.10).
    """

    def __init__(self, tls: EngineTls, host: str, setting: str, context: SSL.Context) -> None:
        self._tls = tls
        self._host = host
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._setting = setting
        self._context = context
        self._code = 0

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not self._is_address:
            connection.set_tlsext_host_name(self._host.encode("idna"))
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._chain)
        return connection

    def _chain(self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
        """OpenSSL's judgement of one certificate of the chain stands; we remember it."""
        if not ok:
            self._code = code
        return bool(ok)

    def names(self, connection: SSL.Connection) -> None:
        """After the handshake. MercuryError if the certificate is not for the host."""
        try:
            (verify_ip_address if self._is_address else verify_hostname)(connection, self._host)
        except (VerificationError, CertificateError):
            raise self._refused(min(OTHER_NAME)) from None

    def explained(self, error: BaseException) -> MercuryError:
        """Why there was no handshake, or the connection ended right after it."""
        if self._code:
            return self._refused(self._code)
        said = error.args[0][0][-1] if isinstance(error, SSL.Error) and error.args and error.args[0] else str(error)
        return MercuryError("unavailable", self._tls.fault(said), RETRY_AFTER)

    def _refused(self, code: int) -> MercuryError:
        return MercuryError("unavailable", self._tls.refusal(code, self._host, self._setting), RETRY_AFTER)


def _no_passphrase(*_: object) -> bytes:
    """OpenSSL would ask at the terminal."""
    return b""
