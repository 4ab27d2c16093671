"""What one value may look like: numbers, names, addresses, patterns. Pure.

Each type refuses with a ``ValueError`` worded for the operator, and keeps a value in the one form
that the rest of the proxy compares: hosts in lower case, addresses without a last slash.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from proxy.model.families import FAMILIES
from proxy.model.families.family import TYPE_LENGTH_LIMIT
from proxy.model.paths import sanitise_path
from proxy.oci.reference import NAME

_HOST = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]"
_HOST_PORT = re.compile(rf"({_HOST})(:[0-9]{{1,5}})?")
_AUTH_HOST = re.compile(rf"(https?://)?({_HOST})(:[0-9]{{1,5}})?")
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#]*)/?")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # all of IPv4 within IPv6
_NAME = re.compile(NAME)
_NAME_LIMIT = 128
_GLOB = re.compile(r"[a-z0-9._*-]+(/[a-z0-9._*-]+)*")
_MEDIA_TYPE_GLOB = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+*-]*/[A-Za-z0-9*][A-Za-z0-9!#$&^_.+*-]*"
)
# Control characters, and bytes of a variable that are no UTF-8.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def authority_of(url: str) -> str:
    """HOST[:PORT] of an http(s) address in lower case, without the port its scheme has anyway."""
    address = urlsplit(url)
    return address.netloc.lower().removesuffix(_DEFAULT_PORTS[address.scheme])


def check_password(text: str) -> None:
    """See that ``text`` can be sent as a password.

    Raises:
        ValueError: the text has nothing of the password.
    """
    if not text:
        raise ValueError("expected a password, found none")
    if _CONTROL.search(text):
        raise ValueError("expected a password on one line, without control characters")


def _no_truth(value: object) -> object:
    # "yes" is true in YAML, and true would count as 1.
    if isinstance(value, bool):
        raise ValueError("expected a number")  # noqa: TRY004  # pydantic takes a ValueError
    return value


def _listen_host(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):  # an empty one would be every interface
        raise ValueError("expected an address to listen on, such as 127.0.0.1 or 0.0.0.0")
    return value


def _is_host_port(value: str) -> bool:
    if not _HOST_PORT.fullmatch(value.lower()):
        return False
    try:
        return urlsplit(f"//{value}").port != 0
    except ValueError:  # a port over 65535, brackets around something else than an address
        return False


def _host_port(value: str) -> str:
    if not _is_host_port(value):
        raise ValueError("expected HOST or HOST:PORT")
    return value.lower()


def _auth_host(value: str) -> str:
    if not _AUTH_HOST.fullmatch(value.lower()) or not _is_host_port(value.rpartition("//")[2]):
        raise ValueError("expected HOST (https), or http://HOST:PORT, or https://HOST:PORT")
    return value.lower()


def _is_origin(value: str) -> bool:
    match = _ORIGIN.fullmatch(value)
    return match is not None and _is_host_port(match["authority"])


def _origin(value: str) -> str:
    if not _is_origin(value):
        raise ValueError("expected http://HOST[:PORT] or https://HOST[:PORT], without a path")
    # As browsers write it in Origin, so that the two compare.
    return f"{urlsplit(value).scheme}://{authority_of(value)}"


def _egress_proxy(value: str) -> str:
    if value == "none":
        return value
    if "@" in value:
        raise ValueError(
            "expected no credentials in the address; a proxy that wants them comes from the "
            "environment's HTTPS_PROXY"
        )
    if not _is_origin(value):
        raise ValueError("expected none, or http://HOST[:PORT] of an HTTP proxy")
    return value.rstrip("/")


def _registry_url(value: str) -> str:
    if "@" in value:
        raise ValueError(
            "expected no credentials in the address; clients send their own, and an account of the "
            "proxy's stands below 'credentials'"
        )
    match = re.fullmatch(r"https?://(?P<authority>[^/?#]*)(?P<rest>.*)", value, re.DOTALL)
    if match is None or not _is_host_port(match["authority"]):
        raise ValueError("expected http://HOST[:PORT][/PATH] or https://…")
    path = match["rest"]
    if not _BASE_PATH.fullmatch(path):
        raise ValueError("expected a plain base path without query or percent-encoding")
    if {".", ".."} & set(path.split("/")):
        raise ValueError("expected a base path without dot segments")
    if path.rstrip("/").endswith("/v2"):
        raise ValueError("expected the registry's address without its /v2")
    return value.rstrip("/")


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError("expected an address, or a network such as 10.0.0.0/8") from error
    holds_ipv4 = isinstance(network, ipaddress.IPv6Network) and _MAPPED.subnet_of(network)
    if network.prefixlen == 0 or holds_ipv4:
        raise ValueError("expected the reverse proxies before this one, not everybody")
    return str(network)


def _upstream_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("expected at most 63 lower-case letters, digits and '-'")
    return value


def _prefix(value: str) -> str:
    if len(value) > _NAME_LIMIT or not _NAME.fullmatch(value):
        raise ValueError(
            f"expected the beginning of a repository name, such as hub or team/hub, in lower case "
            f"and at most {_NAME_LIMIT} characters"
        )
    return value


def _prefix_or_none(value: str) -> str:
    return _prefix(value) if value else ""


def _glob(value: str) -> str:
    if not _GLOB.fullmatch(value) or "***" in value:
        raise ValueError(
            "expected a pattern of the upstream's repository names, such as library/* or team/**"
        )
    return value


def _media_type_glob(value: str) -> str:
    # With something before the first "*" of each part: one that takes every type is a mistake.
    if len(value) > TYPE_LENGTH_LIMIT or not _MEDIA_TYPE_GLOB.fullmatch(value):
        raise ValueError(
            "expected a media type without parameters, such as application/vnd.acme.model.v1.tar "
            "or application/vnd.acme.*"
        )
    return value.lower()


def _family_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("expected at most 63 lower-case letters, digits and '-'")
    if any(value == family.name for family in FAMILIES):
        raise ValueError("expected a name that no built-in family has")
    return value


def _annotation_key(value: str) -> str:
    if not re.fullmatch(r"[!-~]{1,255}", value):
        raise ValueError("expected the key of an annotation, such as com.example.path")
    return value


def _file_name(value: str) -> str:
    if sanitise_path(value) != value or "/" in value:
        raise ValueError("expected the name of a file, without '/'")
    return value


def _username(value: str) -> str:
    if not value or ":" in value or _CONTROL.search(value):
        raise ValueError("expected a name without ':' and control characters")
    return value


def _password(value: SecretStr) -> SecretStr:
    check_password(value.get_secret_value())
    return value


Seconds = Annotated[float, BeforeValidator(_no_truth), Field(gt=0, le=86_400)]
WholeNumber = Annotated[int, BeforeValidator(_no_truth)]

ListenHost = Annotated[str, AfterValidator(_listen_host)]
HostPort = Annotated[str, AfterValidator(_host_port)]
AuthHost = Annotated[str, AfterValidator(_auth_host)]
Origin = Annotated[str, AfterValidator(_origin)]
EgressProxy = Annotated[str, AfterValidator(_egress_proxy)]
RegistryUrl = Annotated[str, AfterValidator(_registry_url)]
Network = Annotated[str, AfterValidator(_network)]

UpstreamName = Annotated[str, AfterValidator(_upstream_name)]
NamePrefix = Annotated[str, AfterValidator(_prefix)]
DefaultNamespace = Annotated[str, AfterValidator(_prefix_or_none)]  # "" for none
NameGlob = Annotated[str, AfterValidator(_glob)]

MediaTypeGlob = Annotated[str, AfterValidator(_media_type_glob)]
FamilyName = Annotated[str, AfterValidator(_family_name)]
AnnotationKey = Annotated[str, AfterValidator(_annotation_key)]
FileName = Annotated[str, AfterValidator(_file_name)]

Username = Annotated[str, AfterValidator(_username)]
Password = Annotated[SecretStr, AfterValidator(_password)]
