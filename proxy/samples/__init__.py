"""Three small sample models for the demo: real files of every kind, with random weights.

Everything is made here from constants, so the same version always writes the same bytes (the one
gzip layer: with the same zlib). ``models`` says what is in each, ``weights``, ``tokenizers`` and
``texts`` make the files, ``packing`` makes what a registry stores.
"""

from __future__ import annotations

import asyncio

from proxy.embedded.layout import Layout
from proxy.oci.manifest import OCI_MANIFEST
from proxy.oci.reference import Reference, Tag
from proxy.samples.models import Sample, sample_models
from proxy.samples.packing import pack

__all__ = ["Sample", "write_samples"]


async def write_samples(layout: Layout) -> list[Sample]:
    """Put the sample models into ``layout``; whoever calls it again changes nothing."""
    models = await asyncio.to_thread(sample_models)
    for model in models:
        reference = Reference.parse(model.sample.reference)
        packed = pack(
            model.files,
            namespace=model.namespace,
            descriptor=model.descriptor,
            config=model.config,
        )
        for blob in packed.blobs:
            await layout.add_blob(reference.repository, blob)
        tags = [reference.target] if isinstance(reference.target, Tag) else []
        await layout.put_manifest(
            reference.repository, packed.manifest, media_type=OCI_MANIFEST, tags=tags
        )
    return [model.sample for model in models]
