"""What every recipe needs: certificates, and a registry in each of its two ways to log in."""

from __future__ import annotations

import pytest

from tests.certificates import authority
from tests.components.registries import Server
from tests.deploy.recipes import Tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for loopback of an authority of the tests' own."""
    found = authority(tmp_path_factory.mktemp("authority"))
    return Tls(found, found.issue("server"))


@pytest.fixture(scope="session", params=["htpasswd", "token"])
def guarded_registry(request: pytest.FixtureRequest) -> Server:
    """docker-registry that wants ``registries.CREDENTIAL``, by Basic or by Bearer tokens."""
    found = request.getfixturevalue(f"{request.param}_registry")
    assert isinstance(found, Server)
    return found
