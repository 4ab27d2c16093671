"""What went wrong with the upstream, in our words: fixed texts with no address and no secret.

Each says which end failed and, where an operator can mend it, what to look at.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from dataclasses import dataclass

import aiohttp

from proxy.errors import (
    BadUpstream,
    LoopDetected,
    ProxyError,
    TooManyRequests,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.upstream.headers import LOOP
from proxy.upstream.redirects import AddressNotAllowed

PROXY_LOGIN = (
    "the HTTP proxy before the upstream wants a login; give one in the environment's HTTPS_PROXY "
    "or HTTP_PROXY, as http://NAME:PASSWORD@HOST:PORT"
)

_UNKNOWN_AUTHORITY = (
    "its certificate comes from an authority that is not known here; name that authority's "
    "certificate in upstreams[].tls.ca_file"
)
# By OpenSSL's number of what failed. Source: X509_verify_cert_error_string(3).
_CERTIFICATE = {
    2: _UNKNOWN_AUTHORITY,
    9: "its certificate is not valid yet; compare the clocks",
    10: "its certificate has expired; it has to be renewed there, or the clock here is wrong",
    18: "its certificate is self-signed; if it is the right one, name it in "
    "upstreams[].tls.ca_file",
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: "its certificate is for another host name than the one in its address",
    64: "its certificate is for another host name than the IP address in its address",
}
_NO_TLS = "it speaks no TLS on this port; is its address http:// instead of https://?"
_OLD_TLS = "it speaks no TLS version from 1.2 on"
_WANTS_CERTIFICATE = (
    "it wants a client certificate; name one in upstreams[].tls.client_cert_file and "
    "client_key_file"
)
_REFUSES_CERTIFICATE = (
    "it does not accept the client certificate of upstreams[].tls.client_cert_file"
)
# By OpenSSL's name of the reason, which differs between its versions.
_HANDSHAKE = {
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"),
        _NO_TLS,
    ),
    **dict.fromkeys(("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"), _OLD_TLS),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    # What TLS 1.2 says for it, and for having no cipher in common.
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"it refuses the handshake; perhaps {_WANTS_CERTIFICATE}",
    **dict.fromkeys(
        (
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_DECRYPT_ERROR",
            "TLSV1_ALERT_UNKNOWN_CA",
        ),
        _REFUSES_CERTIFICATE,
    ),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end as messages call it; ``is_proxied``: an HTTP proxy stands in between."""

    name: str = "the upstream"
    is_proxied: bool = False


def translate(error: Exception, peer: Peer = Peer()) -> ProxyError:
    """A failure of the HTTP client as ours; the text is fixed and holds no URL."""
    match error:
        case ProxyError():
            return error
        case aiohttp.ClientHttpProxyError():
            return _refused_by_proxy(error.status)
        case aiohttp.ClientConnectorError():
            return _no_connection(error, peer)
        case aiohttp.ConnectionTimeoutError():
            through = " through the HTTP proxy" if peer.is_proxied else ""
            return UpstreamUnreachable(
                f"no connection to {peer.name}{through} within the connect timeout"
            )
        case TimeoutError():
            return UpstreamTimeout(f"{peer.name} is connected but sent nothing in time")
        case aiohttp.ClientPayloadError():
            return BadUpstream(f"{peer.name}'s body ended before its declared length")
        case aiohttp.ClientResponseError():
            return BadUpstream(f"{peer.name}'s answer is not valid HTTP")
        case aiohttp.ServerDisconnectedError():
            return BadUpstream(f"{peer.name} closed the connection without an answer")
        case _ if isinstance(error.__cause__, ssl.SSLError):
            # In TLS 1.3 a server refuses a client certificate after the handshake.
            return BadUpstream(f"TLS to {peer.name} failed: {_tls_reason(error.__cause__)}")
        case aiohttp.ClientOSError() if error.errno:
            return BadUpstream(f"{peer.name}'s connection failed: {os.strerror(error.errno)}")
        case _:
            return BadUpstream(f"{peer.name}'s connection failed: {type(error).__name__}")


def refuse_busy(status: int, retry_after: str | None, *, who: str) -> None:
    """Raise for an answer that says "not now": 429, 503, 508."""
    value = header_text(retry_after)
    headers = () if value is None else (("Retry-After", value),)
    match status:
        case 429:
            raise TooManyRequests(f"{who} limits requests", headers=headers)
        case 503:
            raise UpstreamUnreachable(f"{who} is unavailable", headers=headers)
        case 508:
            raise LoopDetected(LOOP)
        case _:
            pass


def header_text(value: str | None) -> str | None:
    """``value`` where it is one that a header may hold, in ASCII."""
    return value if value is not None and re.fullmatch(r"[\x20-\x7e]+", value) else None


def is_no_connection(error: Exception) -> bool:
    """Whether there was no connection to the upstream, nor a word of an HTTP proxy's own rules."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status >= 500
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def is_lost_connection(error: Exception) -> bool:
    """Whether a connection broke that stood; a kept one may have been closed meanwhile."""
    return isinstance(
        error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError
    ) and not isinstance(error, aiohttp.ClientConnectorError)


def may_pass(error: Exception) -> bool:
    """Whether connecting again a moment later has a chance: no certificate gets better by that.

    Nor does a connect timeout: who waited that long is told.
    """
    match error:
        case aiohttp.ClientConnectorDNSError():
            return error.os_error.errno == socket.EAI_AGAIN
        case aiohttp.ClientConnectorError():
            return not isinstance(error.os_error, ssl.SSLError | ssl.CertificateError)
        case _:
            return False


def _no_connection(error: aiohttp.ClientConnectorError, peer: Peer) -> ProxyError:
    cause = error.os_error
    if isinstance(cause, AddressNotAllowed):
        return BadUpstream("redirect target not allowed: the address is not public")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return BadUpstream(f"TLS to {peer.name} failed: {_tls_reason(error.certificate_error)}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return BadUpstream(f"TLS to {peer.name} failed: {_tls_reason(cause)}")
    # With a proxy in between its name alone is resolved here, and its address connected to.
    name = "the HTTP proxy" if peer.is_proxied else peer.name
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        if cause.errno == socket.EAI_AGAIN:
            return UpstreamUnreachable(f"{name}'s host name cannot be looked up: DNS fails")
        return UpstreamUnreachable(f"{name}'s host name does not resolve")
    if peer.is_proxied and not isinstance(error, aiohttp.ClientProxyConnectionError):
        name = f"{peer.name} through the HTTP proxy"
    # The error's own text names addresses; its number is enough.
    reason = os.strerror(cause.errno) if cause.errno else "closed while connecting"
    return UpstreamUnreachable(f"no connection to {name}: {reason}")


def _refused_by_proxy(status: int) -> ProxyError:
    if status == 407:
        return BadUpstream(PROXY_LOGIN)
    if status >= 500:
        return UpstreamUnreachable(
            f"the HTTP proxy has no connection to the upstream: it says {status}"
        )
    return BadUpstream(
        f"the HTTP proxy refuses to connect to the upstream: it says {status}; allow it there, or "
        "go without: upstreams[].proxy, NO_PROXY"
    )


def _tls_reason(cause: Exception) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(cause.verify_code, cause.verify_message)
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    return _HANDSHAKE.get(reason or "", reason or type(cause).__name__)
