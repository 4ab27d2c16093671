"""Clients by their key in the matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.drivers import (
    Client,
    CtrClient,
    DockerClient,
    DockerMirrorClient,
    OrasClient,
    Place,
    PodmanClient,
    PodmanMirrorClient,
    SkopeoClient,
    ctr_mirror,
)
from tests.components.programs import require

StartClient = Callable[[str, Place], Client]

_SPACES = itertools.count()


@pytest.fixture
def start_client(request: pytest.FixtureRequest, tmp_path: Path) -> StartClient:
    """Gives the client with a key of the matrix, sent to a place, with no login yet."""

    def start(key: str, place: Place) -> Client:
        match key:
            case "docker":
                return DockerClient(place, request.getfixturevalue("docker"), tmp_path)
            case "docker-mirror":
                return DockerMirrorClient(place, request.getfixturevalue("docker"), tmp_path)
            case "podman":
                return PodmanClient(place, request.getfixturevalue("podman"), tmp_path)
            case "podman-mirror":
                return PodmanMirrorClient(place, request.getfixturevalue("podman"), tmp_path)
            case "skopeo":
                require("skopeo")
                return SkopeoClient(place, tmp_path)
            case "oras":
                require("oras")
                return OrasClient(place, tmp_path)
            case "ctr":
                engine = request.getfixturevalue("containerd")
                return CtrClient(place, engine, f"space-{next(_SPACES)}")
            case "ctr-mirror":
                engine = request.getfixturevalue("containerd")
                return ctr_mirror(place, engine, f"space-{next(_SPACES)}", tmp_path)
            case _:
                raise ValueError(f"no client {key!r}")

    return start
