"""Manifests for the proxy's own routes: asked for as the caller, verified, handed over as bytes."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.content.reader import AuthorizedReader
from proxy.errors import BadUpstream, ManifestUnknown, SizeInvalid
from proxy.oci.digest import Digest
from proxy.oci.manifest import ACCEPT_MANIFESTS, MANIFEST_BYTES_LIMIT
from proxy.oci.reference import Reference
from proxy.upstream.identity import Caller


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as the registry stores it."""

    body: bytes
    media_type: str
    digest: Digest


class Manifests:
    """Reads manifests from the upstream; each read is also the proof that the caller may."""

    def __init__(self, reader: AuthorizedReader) -> None:
        self._reader = reader

    async def get(self, reference: Reference, *, caller: Caller) -> StoredManifest:
        """The manifest ``reference`` names.

        Raises:
            ManifestUnknown: the upstream has no such repository or reference.
            SizeInvalid: larger than 8 MiB.
            BadUpstream: the body is not the content of the digest, or no manifest came.
            ProxyError: what ``AuthorizedReader.open`` raises.
        """
        target = reference.target
        async with self._reader.open(
            "GET",
            reference.repository,
            f"manifests/{target}",
            caller=caller,
            headers={"Accept": ACCEPT_MANIFESTS},
        ) as answer:
            if answer.status in (400, 404):
                is_registry = "json" in answer.headers.get("Content-Type", "")
                doubt = (
                    "" if is_registry else "; its answer is no registry's: check upstreams[].url"
                )
                raise ManifestUnknown(f"the upstream has no {reference}{doubt}")
            if answer.status != 200:
                raise BadUpstream(f"expected a manifest, found status {answer.status}")
            declared = answer.content_length
            body = None
            if declared is None or declared <= MANIFEST_BYTES_LIMIT:
                body = await answer.read(MANIFEST_BYTES_LIMIT)
            if body is None:
                raise SizeInvalid(
                    f"expected a manifest of at most {MANIFEST_BYTES_LIMIT} bytes, "
                    f"found {declared or 'more'}"
                )
            media_type = answer.headers.get("Content-Type", "")
            claimed = answer.headers.get("Docker-Content-Digest")
        return StoredManifest(body, media_type, _verified(body, reference, claimed))


def _verified(body: bytes, reference: Reference, claimed: str | None) -> Digest:
    if reference.digest is not None:
        found = Digest.of(body, reference.digest.algorithm)
        if found != reference.digest:
            raise BadUpstream(f"the upstream's manifest is not the content of {reference.digest}")
        return found
    found = Digest.of(body)
    if claimed is not None and claimed.startswith("sha256:") and claimed != str(found):
        raise BadUpstream("the upstream's manifest does not match its Docker-Content-Digest")
    return found
