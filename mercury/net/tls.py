"""TLS on a listener: its certificate, which can be read again for the connections that come from then on.

TLS 1.2 and 1.3 (RFC 5246, RFC 8446); nothing older (RFC 8996). With 1.2 only what RFC 9325 recommends: a key made for
the connection, and authenticated encryption.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.errors import MercuryError

END: Final = b"-----END CERTIFICATE-----"
CIPHERS: Final = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20")  # TLS 1.3 has good ones only


@implementer(IOpenSSLContextFactory)
class Certificate:
    """A certificate with its chain and its key, in files (PEM). `name`: the setting, for error messages."""

    def __init__(self, name: str, chain: Path, key: Path) -> None:
        self.name = name
        self._chain = chain
        self._key = key
        self._context = self.read()

    def getContext(self) -> SSL.Context:
        """The context for a new connection."""
        return self._context

    def use(self, context: SSL.Context) -> None:
        """Use what was read, from the next connection on."""
        self._context = context

    def read(self) -> SSL.Context:
        """The context by what the files hold now. MercuryError if it cannot be used."""
        try:
            own, *others = [
                crypto.load_certificate(crypto.FILETYPE_PEM, part + END)
                for part in self._chain.read_bytes().split(END)[:-1]
            ]
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, self._key.read_bytes(), passphrase=_no_passphrase)
            options = CertificateOptions(
                privateKey=key,
                certificate=own,
                extraCertChain=others,
                raiseMinimumTo=TLSVersion.TLSv1_2,
                acceptableCiphers=CIPHERS,
                acceptableProtocols=[b"http/1.1"],
            )
            context: SSL.Context = options.getContext()
            context.check_privatekey()
        except OSError as error:
            raise MercuryError("unavailable", f"{self.name}: {error.filename}: {error.strerror}") from None
        except (ValueError, TypeError, SSL.Error, crypto.Error):
            reason = f"{self.name}: {self._chain} and {self._key} are not a PEM certificate and its unencrypted key"
            raise MercuryError("unavailable", reason) from None
        return context


def is_of_tls(failure: Failure) -> bool:
    """Whether a connection was lost because what came in was not valid TLS."""
    return failure.check(SSL.Error) is not None


def _no_passphrase(*_: object) -> bytes:
    """OpenSSL would ask at the terminal."""
    return b""


def under_tls(factory: Any, certificate: Certificate | None) -> Any:
    """The factory, behind TLS if there is a certificate."""
    if certificate is None:
        return factory
    wrapped = TLSMemoryBIOFactory(certificate, False, factory)
    wrapped.noisy = False
    return wrapped
