"""The sections of the settings: each key with its type, default and bounds.

A new key is a field here. What a value may look like stands in ``values`` and ``files``; a key that
is checked beside its neighbours of the same section has its check here, one that is checked across
sections in ``rules``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SecretStr,
    Tag,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from proxy.model.artifact import RAW, TAR, LayerClass, Packing
from proxy.model.families import with_declared
from proxy.model.families.family import Family, LayerRule, layer_rule
from proxy.settings.files import (
    CertificateFile,
    HtpasswdFile,
    ReadableFile,
    check_pair,
    read_password,
    read_users,
)
from proxy.settings.values import (
    AnnotationKey,
    AuthHost,
    DefaultNamespace,
    EgressProxy,
    FamilyName,
    FileName,
    HostPort,
    ListenHost,
    MediaTypeGlob,
    NameGlob,
    NamePrefix,
    Network,
    Origin,
    Password,
    RegistryUrl,
    Seconds,
    UpstreamName,
    Username,
    WholeNumber,
    authority_of,
)

# Hosts under which Docker Hub is known; ``library`` is its namespace of one-segment names.
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_MASK = "********"
_PACKINGS = {
    str(packing): packing
    for packing in (
        *(RAW, Packing("raw", "gzip"), Packing("raw", "zstd")),
        *(TAR, Packing("tar", "gzip"), Packing("tar", "zstd")),
    )
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: object) -> object:
        # "listen:" with nothing below it is null in YAML and means the defaults.
        if isinstance(value, dict):
            return {
                key: entry
                for key, entry in value.items()
                if entry is not None or key not in cls.model_fields
            }
        return value


class ListenTlsSettings(_Section):
    """The listener's own certificate; without one it speaks plain HTTP."""

    cert_file: CertificateFile | None = None
    key_file: ReadableFile | None = Field(default=None, validate_default=True)

    @field_validator("key_file")
    @classmethod
    def _pair(cls, value: Path | None, found: ValidationInfo) -> Path | None:
        if "cert_file" in found.data:
            check_pair(found.data["cert_file"], value, beside="cert_file")
        return value


class AuthSettings(_Section):
    """The proxy's own login, asked where an upstream is not reached as the caller."""

    htpasswd: HtpasswdFile
    _users: Mapping[str, str] = PrivateAttr()

    @property
    def users(self) -> Mapping[str, str]:
        """Names and bcrypt hashes, as the file had them when the settings were read."""
        return self._users

    @model_validator(mode="after")
    def _keep_users(self) -> AuthSettings:
        self._users = read_users(self.htpasswd)
        return self


class ListenSettings(_Section):
    """Where clients connect, and how long they may be silent."""

    host: ListenHost = "127.0.0.1"
    port: WholeNumber = Field(default=8080, ge=0, le=65_535)
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    write_seconds: Seconds = 60.0
    keepalive_seconds: Seconds = 75.0
    drain_seconds: Seconds = 30.0
    tls: ListenTlsSettings = ListenTlsSettings()
    public_url: Origin | None = None
    trusted_proxies: tuple[Network, ...] = ()
    auth: AuthSettings | None = None
    registry_api: bool = True
    readonly: bool = False


class TlsSettings(_Section):
    """How the upstream's certificate is checked, and which one the proxy shows it."""

    ca_file: CertificateFile | None = None
    insecure: bool = False
    client_cert_file: CertificateFile | None = None
    client_key_file: ReadableFile | None = Field(default=None, validate_default=True)

    @field_validator("insecure")
    @classmethod
    def _not_beside_ca_file(cls, value: bool, found: ValidationInfo) -> bool:
        if value and found.data.get("ca_file"):
            raise ValueError("expected false beside ca_file, which would not be looked at")
        return value

    @field_validator("client_key_file")
    @classmethod
    def _pair(cls, value: Path | None, found: ValidationInfo) -> Path | None:
        if "client_cert_file" in found.data:
            check_pair(found.data["client_cert_file"], value, beside="client_cert_file")
        return value


class TimeoutSettings(_Section):
    """Seconds; none of them bounds a whole transfer."""

    connect_seconds: Seconds = 10.0
    idle_seconds: Seconds = 60.0
    response_seconds: Seconds = 60.0
    upload_response_seconds: Seconds = 900.0


class AccountSettings(_Section):
    """An account of the proxy's own at an upstream; ``anonymous``: for callers without a login."""

    username: Username
    password: Password | None = None
    password_file: Path | None = Field(default=None, validate_default=True)
    anonymous: bool = False
    _secret: SecretStr = PrivateAttr()

    def password_text(self) -> str:
        """The password, as the variable or the file had it when the settings were read."""
        return self._secret.get_secret_value()

    @field_validator("password_file")
    @classmethod
    def _one_password(cls, value: Path | None, found: ValidationInfo) -> Path | None:
        if "password" not in found.data:
            return value
        if value is None and found.data["password"] is None:
            raise ValueError("expected the file that holds the account's password, found none")
        if value is not None and found.data["password"] is not None:
            raise ValueError("expected no file beside the variable that sets the password")
        if value is not None:
            read_password(value)
        return value

    @model_validator(mode="after")
    def _keep_password(self) -> AccountSettings:
        file = self.password_file
        text = SecretStr(read_password(file)) if file is not None else self.password
        assert text is not None  # noqa: S101  # the field's validator saw to it
        self._secret = text
        return self

    @field_serializer("password")
    def _mask(self, value: SecretStr | None) -> str | None:
        return None if value is None else _MASK


def _form_of_credentials(value: object) -> str | None:
    if value in ("caller", "anonymous"):
        return "word"
    return "account" if isinstance(value, dict | AccountSettings) else None


# A key's path in a fault leaves these out: they are pydantic's way to tell the two forms apart.
CREDENTIALS_FORMS = ("word", "account")
Credentials = Annotated[
    Annotated[Literal["caller", "anonymous"], Tag("word")]
    | Annotated[AccountSettings, Tag("account")],
    Discriminator(
        _form_of_credentials,
        custom_error_type="credentials",
        custom_error_message=(
            "expected 'caller' or 'anonymous', or username and password_file below this key"
        ),
    ),
]


class UpstreamSettings(_Section):
    """One existing registry."""

    name: UpstreamName = "default"
    url: RegistryUrl
    prefix: NamePrefix | None = None
    hosts: tuple[HostPort, ...] = ()
    namespaces: tuple[HostPort, ...] = ()
    default: bool | None = None
    default_namespace: DefaultNamespace | None = None
    credentials: Credentials = "caller"
    allow: tuple[NameGlob, ...] = ()
    deny: tuple[NameGlob, ...] = ()
    redirects: Literal["relay", "follow"] = "relay"
    redirect_hosts: tuple[HostPort, ...] = ()
    auth_hosts: tuple[AuthHost, ...] = ()
    connections: WholeNumber = Field(default=128, ge=1, le=4096)
    proxy: EgressProxy | None = None
    tls: TlsSettings = TlsSettings()
    timeouts: TimeoutSettings = TimeoutSettings()

    @property
    def account(self) -> AccountSettings | None:
        """The proxy's own account there, if it has one."""
        return self.credentials if isinstance(self.credentials, AccountSettings) else None

    @property
    def asks_login(self) -> bool:
        """Whether callers have to pass ``listen.auth`` where that is set."""
        if self.account is not None:
            return not self.account.anonymous
        return self.credentials == "anonymous"

    @property
    def is_docker_hub(self) -> bool:
        """Whether it is Docker Hub itself, under any of its names."""
        return authority_of(self.url) in _DOCKER_HUB

    @property
    def effective_default_namespace(self) -> str:
        """What goes before a name of one segment; "" for nothing."""
        if self.default_namespace is not None:
            return self.default_namespace
        return "library" if self.is_docker_hub else ""

    @property
    def has_other_names(self) -> bool:
        """Whether clients write its repositories in another way than it does itself."""
        return bool(self.prefix or self.effective_default_namespace)

    @property
    def known_namespaces(self) -> tuple[str, ...]:
        """The values of containerd's ``ns`` that mean this upstream, in lower case."""
        return tuple(dict.fromkeys((*self.own_namespaces, *self.namespaces)))

    @property
    def own_namespaces(self) -> tuple[str, ...]:
        """Those it has by its url alone: HOST[:PORT], and for Docker Hub all its names."""
        return _DOCKER_HUB if self.is_docker_hub else (authority_of(self.url),)


class LayerTypeSettings(_Section):
    """Layer types of a declared family, and what they hold."""

    media_type: MediaTypeGlob
    file_class: LayerClass = LayerClass.OTHER
    packing: Literal[
        "type", "sniff", "raw", "raw+gzip", "raw+zstd", "tar", "tar+gzip", "tar+zstd"
    ] = "type"
    name: FileName | None = None

    def rule(self) -> LayerRule:
        """The rule that the family reads such layers by."""
        return layer_rule(
            self.media_type,
            self.file_class,
            _PACKINGS.get(self.packing),
            trusted=self.packing != "sniff",
            name=self.name,
        )


class FamilySettings(_Section):
    """A packaging convention that is not built in."""

    name: FamilyName
    artifact_types: tuple[MediaTypeGlob, ...] = ()
    config_types: tuple[MediaTypeGlob, ...] = Field(default=(), validate_default=True)
    layers: tuple[LayerTypeSettings, ...] = ()
    path_annotations: tuple[AnnotationKey, ...] = ("org.opencontainers.image.title",)
    metadata_annotations: tuple[AnnotationKey, ...] = ()

    @field_validator("config_types")
    @classmethod
    def _is_known_by_something(
        cls, value: tuple[str, ...], found: ValidationInfo
    ) -> tuple[str, ...]:
        if not value and found.data.get("artifact_types") == ():
            raise ValueError("expected a type here or in artifact_types to know the family by")
        return value

    def family(self) -> Family:
        """The family in the form of the built-in ones.

        Its layer types alone are no mark of it: they may be as common as octet-stream.
        """
        return Family(
            name=self.name,
            artifact_types=frozenset(self.artifact_types),
            config_types=frozenset(self.config_types),
            layer_rules=tuple(layer.rule() for layer in self.layers),
            path_annotations=self.path_annotations,
            metadata_annotations=self.metadata_annotations,
            own_layer_types=False,
        )


class ModelsSettings(_Section):
    """The routes below /cnai/."""

    enabled: bool = True
    index_bytes: Annotated[WholeNumber, Field(ge=1024**2, le=1024**4)] = 256 * 1024**2
    scan_bytes: Annotated[WholeNumber, Field(ge=0, le=1024**5)] = 16 * 1024**3
    families: tuple[FamilySettings, ...] = ()

    @field_validator("families")
    @classmethod
    def _distinct_names(cls, value: tuple[FamilySettings, ...]) -> tuple[FamilySettings, ...]:
        if len({family.name for family in value}) != len(value):
            raise ValueError("expected families of distinct names")
        return value

    def known_families(self) -> tuple[Family, ...]:
        """All families, the built-in ones and the declared ones."""
        return with_declared([declared.family() for declared in self.families])


class LogSettings(_Section):
    """Lines on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(_Section):
    """Prometheus counters at /metrics."""

    enabled: bool = True


class Settings(_Section):
    """Everything an operator can set."""

    listen: ListenSettings = ListenSettings()
    upstreams: tuple[UpstreamSettings, ...] = ()
    models: ModelsSettings = ModelsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def claimed_defaults(self) -> list[int]:
        """Which upstreams claim to be the default; good settings have one at most."""
        declared = [at for at, upstream in enumerate(self.upstreams) if upstream.default]
        return declared or [
            at
            for at, upstream in enumerate(self.upstreams)
            if upstream.default is None
            and not (upstream.prefix or upstream.hosts)
            and (len(self.upstreams) == 1 or not upstream.namespaces)
        ]

    @property
    def default_upstream(self) -> UpstreamSettings | None:
        """Whom a name belongs to that no prefix, host or namespace gives to another."""
        claimed = self.claimed_defaults
        return self.upstreams[claimed[0]] if claimed else None

    def own_users(self) -> Mapping[str, str]:
        """Names and bcrypt hashes of the proxy's own login; empty without one."""
        return {} if self.listen.auth is None else self.listen.auth.users

    def with_upstream(self, url: str) -> Settings:
        """The same settings before a registry of our own at ``url``, which has no login itself.

        It is reached as anonymous where ``listen.auth`` is set, so that this login counts there.
        """
        credentials: Literal["anonymous", "caller"] = (
            "caller" if self.listen.auth is None else "anonymous"
        )
        upstream = UpstreamSettings(url=url, proxy="none", credentials=credentials)
        return self.model_copy(update={"upstreams": (upstream,)})

    def to_yaml(self) -> str:
        """The effective settings as a file that would give them; a password is masked in it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
