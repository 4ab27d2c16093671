"""Real components as fixtures: each started once a session, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import canary
from tests.components import engines, registries
from tests.components.engines import Containerd, Docker, Podman
from tests.components.registries import CREDENTIAL, WRONG, Gateway, Proxied, Server
from tests.components.tokens import TokenService, token_service


@pytest.fixture(scope="session", autouse=True)
def no_secret_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Row B5: nothing that a proxy logged in this run shows a login of the tests."""
    secrets = (*canary.SECRETS, CREDENTIAL.password, WRONG.password)
    with canary.watching() as found:
        yield
    found += canary.hits_below(tmp_path_factory.getbasetemp(), secrets=secrets)
    assert not found, found


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Debian's docker-registry, open to everybody."""
    with registries.docker_registry(tmp_path_factory.mktemp("docker-registry")) as server:
        yield server


@pytest.fixture(scope="session")
def htpasswd_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """docker-registry with a Basic login."""
    folder = tmp_path_factory.mktemp("htpasswd-registry")
    with registries.docker_registry(folder, auth=registries.htpasswd_auth(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """A token service that knows GET alone, as most registries' own."""
    with token_service(tmp_path_factory.mktemp("tokens"), CREDENTIAL) as service:
        yield service


@pytest.fixture(scope="session")
def oauth2_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """A token service that also takes POST and gives refresh tokens, as Docker Hub's."""
    folder = tmp_path_factory.mktemp("oauth2-tokens")
    with token_service(folder, CREDENTIAL, speaks_oauth2=True) as service:
        yield service


@pytest.fixture(scope="session")
def token_registry(
    tokens: TokenService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """docker-registry that sends its callers to ``tokens``."""
    folder = tmp_path_factory.mktemp("token-registry")
    with registries.docker_registry(folder, auth=registries.token_auth(tokens)) as server:
        yield server


@pytest.fixture(scope="session")
def oauth2_registry(
    oauth2_tokens: TokenService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """docker-registry that sends its callers to ``oauth2_tokens``."""
    folder = tmp_path_factory.mktemp("oauth2-registry")
    with registries.docker_registry(folder, auth=registries.token_auth(oauth2_tokens)) as server:
        yield server


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """distribution v3, open to everybody."""
    folder = tmp_path_factory.mktemp("distribution")
    with registries.docker_registry(folder, program="registry") as server:
        yield server


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded registry without the proxy."""
    with registries.embedded_registry(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@contextmanager
def _before(upstream: Server, factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with registries.proxy(factory.mktemp("proxy"), upstream_url=upstream.url) as server:
        yield Proxied(server, upstream)


@pytest.fixture(scope="session")
def proxied(docker_registry: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """The proxy before docker-registry."""
    with _before(docker_registry, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def proxied_htpasswd(
    htpasswd_registry: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    """The proxy before a registry with a Basic login."""
    with _before(htpasswd_registry, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def proxied_token(
    token_registry: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    """The proxy before a registry with a token service."""
    with _before(token_registry, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def gateway(
    docker_registry: Server,
    htpasswd_registry: Server,
    token_registry: Server,
    oauth2_registry: Server,
    tokens: TokenService,
    oauth2_tokens: TokenService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """One proxy before four registries, each chosen by prefix, host or ``ns``; none by default."""
    # First the one whose token service oras asks: it follows a realm on loopback only to the very
    # address it called the registry by, which is 127.0.0.1 then.
    upstreams = {
        "token": token_registry,
        "public": docker_registry,
        "htpasswd": htpasswd_registry,
        "oauth2": oauth2_registry,
    }
    auth_hosts = {"token": [tokens.origin], "oauth2": [oauth2_tokens.origin]}
    folder = tmp_path_factory.mktemp("gateway")
    with registries.gateway(folder, upstreams, auth_hosts=auth_hosts) as found:
        yield found


@pytest.fixture(scope="session")
def mixed(
    docker_registry: Server,
    token_registry: Server,
    tokens: TokenService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """One proxy before an open registry and one with logins."""
    upstreams = {"token": token_registry, "public": docker_registry}
    auth_hosts = {"token": [tokens.origin]}
    folder = tmp_path_factory.mktemp("mixed")
    with registries.gateway(folder, upstreams, auth_hosts=auth_hosts) as found:
        yield found


@pytest.fixture(scope="session", params=["docker-registry", "distribution", "embedded"])
def any_registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    """The proxy before each registry that is open to everybody."""
    upstream = request.getfixturevalue(request.param.replace("-", "_"))
    assert isinstance(upstream, Server)
    with _before(upstream, tmp_path_factory) as found:
        yield found


@pytest.fixture(params=["htpasswd", "token"])
def guarded(request: pytest.FixtureRequest) -> Proxied:
    """The proxy before a registry that wants ``registries.CREDENTIAL``, in both ways there are."""
    found = request.getfixturevalue(f"proxied_{request.param}")
    assert isinstance(found, Proxied)
    return found


@pytest.fixture(scope="session")
def proxied_embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``serve --embedded``: the proxy and the embedded registry in one process."""
    folder = tmp_path_factory.mktemp("proxied-embedded")
    with registries.proxy(folder, "--embedded", str(folder / "layout")) as server:
        yield server


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker engine of the tests' own."""
    with engines.docker() as engine:
        yield engine


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """A containerd of the tests' own."""
    with engines.containerd() as engine:
        yield engine


@pytest.fixture
def podman() -> Iterator[Podman]:
    """podman with storage, login file and temporary files of its own, empty for each test."""
    with engines.podman() as engine:
        yield engine
