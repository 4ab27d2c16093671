"""The listener's side of TLS: its versions, its certificate, and how that is exchanged.

The certificate of a listener that runs is exchanged for the handshakes to come; the socket and the
connections that stand are not touched.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# OpenSSL's verdicts on a certificate's dates: X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED.
_WRONG_DATES = (9, 10)
# Turns of each side until a handshake is over; TLS 1.2 takes the most.
_FLIGHTS = 4


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A PEM chain, the server's own certificate first, and its private key."""

    cert_file: str
    key_file: str


class ListenerTls:
    """What a listening socket shows its clients; ``context`` is for the socket, for good."""

    def __init__(self, files: CertificateFiles) -> None:
        """Load ``files``; raises as ``load_context`` does."""
        self.context = self._newest = load_context(files)
        # Called within each handshake, with or without a server name of the client's.
        self.context.sni_callback = self._show_newest

    def use(self, context: ssl.SSLContext) -> None:
        """Show this one's certificate from the next handshake on."""
        self._newest = context

    def _show_newest(
        self, handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        handshake.context = self._newest


def load_context(files: CertificateFiles) -> ssl.SSLContext:
    """TLS 1.2 and newer, HTTP/1.1, with the certificate of ``files``.

    Dates that clients will refuse are a warning: an operator who has only that certificate is
    helped more by a proxy that runs.

    Raises:
        OSError: a file cannot be read, or (``ssl.SSLError``) the two are no pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # No password: an encrypted key is refused here and not asked for on a terminal.
    context.load_cert_chain(files.cert_file, files.key_file, password="")
    if (verdict := _verdict_on_dates(context, files)) is not None:
        logger.warning("listen.tls.cert_file: %s; clients will refuse it", verdict)
    context.sslobject_class = _Handshake
    return context


class _Handshake(ssl.SSLObject):
    """Says why a handshake failed; asyncio keeps that to itself.

    OpenSSL's reason is one of its own words, such as HTTP_REQUEST: nothing of the client's.
    """

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            logger.info("TLS handshake failed reason=%s", error.reason)
            raise


def _verdict_on_dates(server: ssl.SSLContext, files: CertificateFiles) -> str | None:
    """What a client that trusts this very certificate says of its dates; None if they are right."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(files.cert_file)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    # A handshake in memory: the standard library reads no certificate's dates by itself.
    sides = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for side in sides * _FLIGHTS:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message if error.verify_code in _WRONG_DATES else None
        except ssl.SSLError:
            return None  # this client is stricter than others in something else than dates
    return None
