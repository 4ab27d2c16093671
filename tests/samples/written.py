"""The samples as they stand in a layout, read back."""

from __future__ import annotations

import gzip
import io
import json
import tarfile  # noqa: TID251 - the reference reader for what we write
from dataclasses import dataclass

from proxy.embedded.layout import Layout
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor, Manifest, decode
from proxy.oci.reference import Reference, RepositoryName
from proxy.samples import Sample

LLAMA, BERT, GGUF = "demo/tiny-llama:v1", "demo/tiny-bert:v1", "demo/tiny-gguf:v1"


@dataclass(frozen=True, slots=True)
class Written:
    layout: Layout
    samples: dict[str, Sample]

    async def manifest(self, name: str) -> tuple[RepositoryName, Manifest, dict[str, object]]:
        reference = Reference.parse(self.samples[name].reference)
        stored = self.layout.find(reference.repository, reference.target)
        manifest = decode(await self.layout.read_manifest(stored))
        assert isinstance(manifest, Manifest)
        assert manifest.config is not None
        config = json.loads(await self.blob(reference.repository, manifest.config))
        return reference.repository, manifest, config

    async def blob(self, repository: RepositoryName, descriptor: Descriptor) -> bytes:
        reader = self.layout.open_blob(repository, descriptor.digest)
        try:
            content = await reader.read(0, reader.size)
        finally:
            reader.close()
        assert len(content) == descriptor.size
        assert Digest.of(content) == descriptor.digest
        return content

    async def files(self, name: str) -> dict[str, bytes]:
        repository, manifest, _ = await self.manifest(name)
        found = {}
        for layer in manifest.layers:
            blob = await self.blob(repository, layer)
            path = next(v for k, v in layer.annotations.items() if k.endswith(".filepath"))
            if layer.media_type.endswith("+gzip"):
                blob = gzip.decompress(blob)  # noqa: TID251 - the test made it
            if ".tar" in layer.media_type:
                with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as archive:
                    (member,) = archive.getmembers()
                    assert member.name == path
                    content = archive.extractfile(member)
                    assert content is not None
                    found[path] = content.read()
            else:
                found[path] = blob
        return found
