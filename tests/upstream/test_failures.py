from __future__ import annotations

import errno
import os
import re
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.errors import (
    BadUpstream,
    LoopDetected,
    ProxyError,
    TooManyRequests,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.upstream.failures import Peer, is_no_connection, may_pass, refuse_busy, translate
from proxy.upstream.headers import LOOP
from proxy.upstream.redirects import AddressNotAllowed

SECRET_HOST = "s3cr3t.example"
KEY = ConnectionKey(SECRET_HOST, 443, True, True, None, None, None)
PROXIED = Peer("the upstream", is_proxied=True)

REFUSED = aiohttp.ClientConnectorError(
    KEY, OSError(errno.ECONNREFUSED, f"Connect call failed ({SECRET_HOST!r}, 443)")
)
CUT = aiohttp.ClientConnectorError(KEY, ConnectionResetError())
PROXY_GONE = aiohttp.ClientProxyConnectionError(KEY, OSError(errno.EHOSTUNREACH, SECRET_HOST))
NO_NAME = aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, SECRET_HOST))
NO_DNS = aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, SECRET_HOST))
PRIVATE = aiohttp.ClientConnectorDNSError(KEY, AddressNotAllowed(SECRET_HOST))
SLOW = aiohttp.ConnectionTimeoutError(f"Connection timeout to host {SECRET_HOST}")


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {SECRET_HOST}")
    error.reason = reason
    return error


def certificate_error(code: int, message: str) -> aiohttp.ClientConnectorCertificateError:
    error = ssl.SSLCertVerificationError(1, f"certificate verify failed: {message}")
    error.verify_code, error.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(KEY, error)


def handshake_error(reason: str) -> aiohttp.ClientConnectorSSLError:
    return aiohttp.ClientConnectorSSLError(KEY, tls_error(reason))


def alert_after_handshake(reason: str) -> aiohttp.ClientOSError:
    error = aiohttp.ClientOSError(1, f"[SSL: {reason}] {SECRET_HOST}")
    error.__cause__ = tls_error(reason)
    return error


def tunnel_error(status: int) -> aiohttp.ClientHttpProxyError:
    headers = CIMultiDictProxy(CIMultiDict[str]())
    request = aiohttp.RequestInfo(URL(f"https://{SECRET_HOST}"), "CONNECT", headers)
    return aiohttp.ClientHttpProxyError(request, (), status=status, message=SECRET_HOST)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (REFUSED, UpstreamUnreachable, f"no connection to X: {os.strerror(errno.ECONNREFUSED)}"),
        (CUT, UpstreamUnreachable, "no connection to X: closed while connecting"),
        (NO_NAME, UpstreamUnreachable, "X's host name does not resolve"),
        (NO_DNS, UpstreamUnreachable, "X's host name cannot be looked up: DNS fails"),
        (PRIVATE, BadUpstream, "redirect target not allowed: the address is not public"),
        (SLOW, UpstreamUnreachable, "no connection to X within the connect timeout"),
        (TimeoutError(), UpstreamTimeout, "X is connected but sent nothing in time"),
        (aiohttp.SocketTimeoutError(), UpstreamTimeout, "X is connected but sent nothing in time"),
        (
            aiohttp.ServerDisconnectedError(),
            BadUpstream,
            "X closed the connection without an answer",
        ),
        (aiohttp.ClientPayloadError(), BadUpstream, "X's body ended before its declared length"),
        (
            aiohttp.ClientOSError(errno.ECONNRESET, SECRET_HOST),
            BadUpstream,
            f"X's connection failed: {os.strerror(errno.ECONNRESET)}",
        ),
        (ValueError(SECRET_HOST), BadUpstream, "X's connection failed: ValueError"),
        (
            handshake_error("WRONG_VERSION_NUMBER"),
            BadUpstream,
            (
                "TLS to X failed: it speaks no TLS on this port; "
                "is its address http:// instead of https://?"
            ),
        ),
        (
            alert_after_handshake("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            BadUpstream,
            (
                "TLS to X failed: it wants a client certificate; name one in "
                "upstreams[].tls.client_cert_file and client_key_file"
            ),
        ),
        (
            alert_after_handshake("TLSV1_ALERT_UNKNOWN_CA"),
            BadUpstream,
            (
                "TLS to X failed: it does not accept the client certificate of "
                "upstreams[].tls.client_cert_file"
            ),
        ),
        (handshake_error("NEW_REASON"), BadUpstream, "TLS to X failed: NEW_REASON"),
        (
            certificate_error(62, f"Hostname mismatch, not valid for '{SECRET_HOST}'."),
            BadUpstream,
            "TLS to X failed: its certificate is for another host name than the one in its address",
        ),
        (
            certificate_error(94, "CA cert does not include key usage extension"),
            BadUpstream,
            "TLS to X failed: CA cert does not include key usage extension",
        ),
    ],
)
def test_H9_failure_is_said_in_our_words(
    error: Exception, kind: type[ProxyError], text: str
) -> None:
    found = translate(error, Peer("X"))
    assert (type(found), found.message) == (kind, text)
    assert SECRET_HOST not in found.message


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (PROXY_GONE, UpstreamUnreachable, "no connection to the HTTP proxy: "),
        (NO_NAME, UpstreamUnreachable, "the HTTP proxy's host name does not resolve"),
        (CUT, UpstreamUnreachable, "no connection to the upstream through the HTTP proxy: "),
        (SLOW, UpstreamUnreachable, "no connection to the upstream through the HTTP proxy within"),
        (tunnel_error(407), BadUpstream, "the HTTP proxy before the upstream wants a login; "),
        (tunnel_error(403), BadUpstream, "the HTTP proxy refuses to connect to the upstream: "),
        (
            tunnel_error(504),
            UpstreamUnreachable,
            "the HTTP proxy has no connection to the upstream",
        ),
    ],
)
def test_failure_of_the_http_proxy_is_said_to_be_its(
    error: Exception, kind: type[ProxyError], text: str
) -> None:
    found = translate(error, PROXIED)
    assert type(found) is kind
    assert found.message.startswith(text)
    assert SECRET_HOST not in found.message


def test_own_error_passes_as_it_is() -> None:
    error = BadUpstream("ours")
    assert translate(error) is error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (REFUSED, True),
        (CUT, True),
        (PROXY_GONE, True),
        (NO_DNS, True),
        (NO_NAME, False),
        (PRIVATE, False),
        (SLOW, False),
        (TimeoutError(), False),
        (aiohttp.ServerDisconnectedError(), False),
        (handshake_error("WRONG_VERSION_NUMBER"), False),
        (certificate_error(10, "certificate has expired"), False),
        (tunnel_error(503), False),
    ],
)
def test_R11_only_what_may_pass_is_tried_again(error: Exception, expected: bool) -> None:
    assert may_pass(error) is expected


def test_refusal_of_the_http_proxy_is_no_failed_connection() -> None:
    assert not is_no_connection(tunnel_error(403))
    assert not is_no_connection(tunnel_error(407))
    assert is_no_connection(tunnel_error(503))
    assert is_no_connection(REFUSED)


@pytest.mark.parametrize(
    ("status", "expected", "text"),
    [
        (429, TooManyRequests, "X limits requests"),
        (503, UpstreamUnreachable, "X is unavailable"),
        (508, LoopDetected, LOOP),
    ],
)
@pytest.mark.parametrize("retry_after", [None, "7", "a\udcffb", "7\r\nx: y", ""])
def test_refuse_busy_says_when_to_come_again_where_a_header_may(
    retry_after: str | None, status: int, expected: type[ProxyError], text: str
) -> None:
    with pytest.raises(expected, match=re.escape(text)) as refused:
        refuse_busy(status, retry_after, who="X")
    is_told = retry_after == "7" and status != 508
    assert dict(refused.value.headers) == ({"Retry-After": "7"} if is_told else {})


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500, 502, 504])
def test_refuse_busy_lets_every_other_answer_pass(status: int) -> None:
    refuse_busy(status, "7", who="X")
