"""Real components as fixtures: each started once a session, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.components import engines, registries
from tests.components.engines import Containerd, Docker, Podman
from tests.components.registries import CREDENTIAL, Proxied, Server
from tests.components.tokens import token_service


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
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """docker-registry that sends its callers to a token service."""
    folder = tmp_path_factory.mktemp("token-registry")
    with (
        token_service(folder, CREDENTIAL) as service,
        registries.docker_registry(folder, auth=registries.token_auth(service)) as server,
    ):
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
