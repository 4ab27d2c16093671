"""Small content for clients to move, and a plain HTTP client to place it in a registry.

The client is ours and simple on purpose: what a test compares with must not come from the clients
under test.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

from proxy.oci.digest import Digest
from proxy.oci.manifest import ACCEPT_MANIFESTS, OCI_INDEX, OCI_MANIFEST, Descriptor
from tests import build
from tests.components.tokens import SERVICE, Credential

CONTAINER_CONFIG = "application/vnd.oci.image.config.v1+json"
CONTAINER_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# Tells our own requests in a registry's log from those of the client under test.
USER_AGENT = "cnai-proxy-tests"

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers in lower case (the last of repeated ones), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest, what it is built from, and the manifests an index names."""

    manifest: bytes
    media_type: str
    blobs: tuple[bytes, ...] = ()
    children: tuple[Artifact, ...] = ()

    @property
    def digest(self) -> Digest:
        """Digest of the manifest."""
        return Digest.of(self.manifest)

    def descriptor(self) -> Descriptor:
        """As an index names it."""
        return build.descriptor(self.media_type, self.manifest)


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own; no redirect is followed, nothing is decoded."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        given = {"User-Agent": USER_AGENT, **(headers or {})}
        connection.request(method, target, body=body, headers=given)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def push(
    base_url: str,
    repository: str,
    tag: str,
    artifact: Artifact,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Place ``artifact`` as ``repository:tag``, its children by digest."""
    for child in artifact.children:
        push(base_url, repository, str(child.digest), child, headers=headers)
    given = headers or {}
    for blob in artifact.blobs:
        started = ask("POST", f"{base_url}/v2/{repository}/blobs/uploads/", headers=given)
        assert started.status == 202, started
        location = urljoin(base_url, started.headers["location"])
        separator = "&" if "?" in location else "?"
        done = ask(
            "PUT",
            f"{location}{separator}digest={Digest.of(blob)}",
            headers={**given, "Content-Type": "application/octet-stream"},
            body=blob,
        )
        assert done.status == 201, done
    stored = ask(
        "PUT",
        f"{base_url}/v2/{repository}/manifests/{tag}",
        headers={**given, "Content-Type": artifact.media_type},
        body=artifact.manifest,
    )
    assert stored.status == 201, stored


def stored_manifest(
    base_url: str, repository: str, reference: str, *, headers: Mapping[str, str] | None = None
) -> Answer:
    """A manifest as the registry at ``base_url`` has it."""
    answer = ask(
        "GET",
        f"{base_url}/v2/{repository}/manifests/{reference}",
        headers={**(headers or {}), "Accept": ACCEPT_MANIFESTS},
    )
    assert answer.status == 200, answer
    return answer


def stored_digest(
    base_url: str, repository: str, reference: str, *, headers: Mapping[str, str] | None = None
) -> str:
    """Digest of a stored manifest, counted from its bytes."""
    return str(Digest.of(stored_manifest(base_url, repository, reference, headers=headers).body))


def container(text: str, *, platform: str = "amd64") -> Artifact:
    """A container for engines: one file that holds ``text``, and a config."""
    archive = build.tar_archive({"greeting.txt": text.encode()})
    layer = gzip.compress(archive, mtime=0)
    config = json.dumps(
        {
            "architecture": platform,
            "os": "linux",
            "config": {"Cmd": ["/greeting.txt"]},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(archive))]},
            "history": [{"created_by": text}],
        }
    ).encode()
    manifest = build.manifest_bytes(
        [build.descriptor(CONTAINER_LAYER, layer)],
        config=build.descriptor(CONTAINER_CONFIG, config),
    )
    return Artifact(manifest, OCI_MANIFEST, (config, layer))


def container_index(text: str) -> Artifact:
    """An index of one container for each of two platforms."""
    platforms = ("amd64", "arm64")
    children = tuple(container(f"{text} on {name}", platform=name) for name in platforms)
    entries = [
        {
            **build.descriptor_json(child.descriptor()),
            "platform": {"architecture": name, "os": "linux"},
        }
        for child, name in zip(children, platforms, strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return Artifact(json.dumps(document).encode(), OCI_INDEX, children=children)


def model_pack(name: str) -> Artifact:
    """A CNCF ModelPack of raw layers: weights and a README."""
    weights = build.safetensors({"w": ("F32", (2, 3), bytes(24)), "b": ("F32", (3,), bytes(12))})
    readme = f"# {name}\n".encode()
    files = {
        "model.safetensors": (weights, build.layer_type("weight")),
        "README.md": (readme, build.layer_type("doc")),
    }
    diffs = [str(Digest.of(content)) for content, _ in files.values()]
    config = json.dumps(
        {
            "descriptor": {"name": name},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": diffs},
        }
    ).encode()
    manifest = build.manifest_bytes(
        [
            build.descriptor(kind, content, annotations=build.file_annotations(path, len(content)))
            for path, (content, kind) in files.items()
        ],
        config=build.descriptor("application/vnd.cncf.model.config.v1+json", config),
        artifact_type="application/vnd.cncf.model.manifest.v1+json",
    )
    return Artifact(manifest, OCI_MANIFEST, (config, weights, readme))


def login(base_url: str, repository: str, credential: Credential) -> dict[str, str]:
    """Headers that let ``credential`` read and write ``repository`` at ``base_url``."""
    challenge = ask("GET", f"{base_url}/v2/").headers["www-authenticate"]
    if challenge.lower().startswith("basic"):
        return {"Authorization": credential.basic}
    realm = re.search(r'realm="([^"]+)"', challenge)
    assert realm is not None, challenge
    query = urlencode({"service": SERVICE, "scope": f"repository:{repository}:pull,push,delete"})
    answer = ask("GET", f"{realm[1]}?{query}", headers={"Authorization": credential.basic})
    return {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
