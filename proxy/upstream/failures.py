"""What went wrong with the upstream, in our words: fixed texts with no address and no secret."""

from __future__ import annotations

import os
import ssl

import aiohttp

from proxy.errors import BadUpstream, ProxyError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.redirects import AddressNotAllowed


def translate(error: Exception) -> ProxyError:
    """A failure of the HTTP client as ours; the text is fixed and holds no URL."""
    match error:
        case ProxyError():
            return error
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return BadUpstream(f"TLS to the upstream failed: {_tls_reason(error)}")
        case AddressNotAllowed():
            return BadUpstream("redirect target not allowed: the address is not public")
        case aiohttp.ClientConnectorDNSError() if isinstance(error.os_error, AddressNotAllowed):
            return BadUpstream("redirect target not allowed: the address is not public")
        case aiohttp.ClientConnectorDNSError():
            return UpstreamUnreachable("the upstream's host name does not resolve")
        case aiohttp.ClientConnectorError():
            # The error's own text names addresses; its number is enough.
            reason = os.strerror(error.os_error.errno) if error.os_error.errno else "failed"
            return UpstreamUnreachable(f"no connection to the upstream: {reason}")
        case aiohttp.ConnectionTimeoutError():
            return UpstreamUnreachable("no connection to the upstream within the connect timeout")
        case TimeoutError():
            return UpstreamTimeout("the upstream is connected but sent nothing in time")
        case aiohttp.ClientPayloadError():
            return BadUpstream("the upstream's body ended before its declared length")
        case aiohttp.ClientResponseError():
            return BadUpstream("the upstream's answer is not valid HTTP")
        case aiohttp.ServerDisconnectedError():
            return BadUpstream("the upstream closed the connection without an answer")
        case _:
            return BadUpstream(f"the upstream's connection failed: {type(error).__name__}")


def _tls_reason(
    error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError,
) -> str:
    cause = (
        error.certificate_error
        if isinstance(error, aiohttp.ClientConnectorCertificateError)
        else error.os_error
    )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    if reason == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS on this port; is its address http:// instead of https://?"
    return str(reason or type(cause).__name__)
