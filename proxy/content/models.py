"""What the model routes need: a model's record, its files, one file's bytes.

Each call begins with the manifest, asked for as the caller: that is the proof that the caller may
read the repository. Files inside an uncompressed tar are found by ranged reads of its headers and
read by Range; no layer is downloaded to open one file.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from proxy.content.blobs import BlobPart, Blobs
from proxy.content.manifests import Manifests, StoredManifest
from proxy.errors import (
    BadUpstream,
    BlobUnknown,
    MalformedArtifact,
    ManifestUnknown,
    PackingUnsupported,
    ProxyError,
    SizeInvalid,
)
from proxy.formats.tar import Member, TarReader
from proxy.model.additions import ADDITIONS, choose
from proxy.model.artifact import TAR, LayerClass, ModelArtifact, ModelLayer, bounded, classify
from proxy.model.families import recognise
from proxy.model.placement import EarlyMatch, FileEntry, entry_of_layer, may_hold, place_members
from proxy.model.record import model_record, read_config
from proxy.model.tree import Directory, FileTree, build_tree
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest
from proxy.oci.manifest import Index, decode
from proxy.oci.reference import Reference
from proxy.upstream.identity import Caller

# A tar's first header, with room for a long name before it and a small file behind it.
FIRST_WINDOW_BYTES = 4 * 1024
# Members closer together than this are cheaper to read through than to jump over: one request
# costs about as much as this many bytes.
WINDOW_BYTES_LIMIT = 256 * 1024
# Bounds on what one request of a client may cost the upstream.
CONFIG_BYTES_LIMIT = 4 * 1024 * 1024
REQUESTS_LIMIT = 5_000
SKIPPED_BYTES_LIMIT = 256 * 1024 * 1024
LAYERS_WALKED_LIMIT = 1_000
LAYERS_AT_ONCE = 4
# A manifest of this size takes some milliseconds to decode; a larger one is decoded in a thread.
DECODE_INLINE_BYTES = 64 * 1024
# Paths named in the answer to a path that is not there.
PATHS_SHOWN = 100


@dataclass(slots=True)
class _Budget:
    """What looking for files in archives may still cost the upstream, for one client request."""

    requests: int = REQUESTS_LIMIT
    skipped_bytes: int = SKIPPED_BYTES_LIMIT

    def spend(self, skipped: int) -> None:
        """Count one read, and the bytes it had to read over.

        Raises:
            SizeInvalid: too much.
        """
        self.requests -= 1
        self.skipped_bytes -= skipped
        if self.requests < 0:
            raise SizeInvalid(
                f"expected archives whose headers take at most {REQUESTS_LIMIT} reads, found more"
            )
        if self.skipped_bytes < 0:
            raise SizeInvalid(
                f"the upstream ignores Range; expected at most {SKIPPED_BYTES_LIMIT} bytes to read "
                "over, found more"
            )


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest that is a model, as one caller may read it, and what reading it may cost."""

    reference: Reference
    caller: Caller
    stored: StoredManifest
    artifact: ModelArtifact
    budget: _Budget = field(default_factory=_Budget, repr=False)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that can be opened: its size in bytes is exact, its ETag strong and quoted."""

    entry: FileEntry
    size: int
    etag: str
    _model: Model
    _blobs: Blobs
    _offset: int

    def open(self, byte_range: ByteRange) -> AbstractAsyncContextManager[BlobPart]:
        """The bytes of ``byte_range`` of the file; see ``Blobs.open``."""
        return self._blobs.open(
            self._model.reference.repository,
            self.entry.layer.descriptor,
            byte_range=byte_range.shifted(self._offset),
            caller=self._model.caller,
        )


class Models:
    """Answers about models.

    Every method raises what ``Manifests.get`` raises, ManifestUnknown for a manifest that is no
    model, and MalformedArtifact for one that cannot be read.
    """

    def __init__(self, manifests: Manifests, blobs: Blobs) -> None:
        self._manifests = manifests
        self._blobs = blobs

    async def describe(self, reference: Reference, *, caller: Caller) -> dict[str, object]:
        """The model record, as JSON values; a config that cannot be read is a warning in it."""
        model = await self._model(reference, caller)
        config, warning = await self._config(model)
        named = [
            entry_of_layer(layer, layer_index=number)
            for number, layer in enumerate(model.artifact.layers)
        ]
        return model_record(
            model.artifact,
            repository=reference.repository,
            tag=reference.tag,
            digest=model.stored.digest,
            media_type=model.stored.media_type,
            config=config,
            config_warning=warning,
            additions=[name for name in ADDITIONS if choose(named, name) is not None],
        )

    async def files(self, reference: Reference, *, caller: Caller) -> FileTree:
        """All files of the model; a layer that cannot be read is one entry that says why."""
        tree, _ = await self._tree(await self._model(reference, caller))
        return tree

    async def find(
        self, reference: Reference, path: str, *, caller: Caller
    ) -> ModelFile | Directory:
        """The file or directory at ``path``.

        Raises:
            BlobUnknown: nothing there; the detail names what there is.
            PackingUnsupported: a file that this version cannot open.
            ProxyError: why a layer cannot be read that is the file, or might hold it.
        """
        model = await self._model(reference, caller)
        entry = await self._find_in_layers(model, path)
        if entry is not None:
            return self._openable(model, entry)
        tree, failures = await self._tree(model)
        found = tree.lookup(path)
        if isinstance(found, FileEntry):
            return self._openable(model, found, failure=failures.get(found.layer_index))
        if found is not None:
            return found
        for number, failure in failures.items():
            if may_hold(model.artifact.layers[number], path):
                raise failure
        paths = [entry.path for entry in tree.entries[:PATHS_SHOWN]]
        raise BlobUnknown(
            f"{reference} has no file {path[:300]!r}",
            detail={"files": paths, "count": len(tree.entries)},
        )

    async def addition(self, reference: Reference, name: str, *, caller: Caller) -> ModelFile:
        """The file that is the model's ``name``: readme or license.

        Raises:
            BlobUnknown: the model has none.
            SizeInvalid: larger than the addition's byte cap.
        """
        model = await self._model(reference, caller)
        tree, failures = await self._tree(model, documents_only=True)
        entry = choose(tree.entries, name)
        if entry is None:
            raise BlobUnknown(
                f"{reference} has no {name}",
                detail={"files": [found.path for found in tree.entries[:PATHS_SHOWN]]},
            )
        found = self._openable(model, entry, failure=failures.get(entry.layer_index))
        limit = ADDITIONS[name].bytes_limit
        if found.size > limit:
            raise SizeInvalid(
                f"expected a {name} of at most {limit} bytes, found {found.size}; "
                f"its bytes are at files/{entry.path}"
            )
        return found

    async def _model(self, reference: Reference, caller: Caller) -> Model:
        stored = await self._manifests.get(reference, caller=caller)
        if len(stored.body) > DECODE_INLINE_BYTES:
            manifest = await asyncio.to_thread(decode, stored.body)
        else:
            manifest = decode(stored.body)
        if isinstance(manifest, Index):
            children = [str(child.digest) for child in manifest.manifests[:PATHS_SHOWN]]
            raise ManifestUnknown(
                f"{reference} is an index; ask for one of its manifests by digest",
                detail={"manifests": children},
            )
        artifact = recognise(manifest)
        if artifact is None:
            raise ManifestUnknown(
                f"{reference} is no model of a known family",
                detail={
                    "artifactType": manifest.artifact_type,
                    "config": manifest.config.media_type if manifest.config else None,
                },
            )
        return Model(reference, caller, stored, artifact)

    async def _config(self, model: Model) -> tuple[dict[str, object] | None, str | None]:
        """The config blob, or None and why it cannot be read."""
        descriptor = model.artifact.manifest.config
        if descriptor is None or descriptor.size == 0:
            return None, None
        if descriptor.size > CONFIG_BYTES_LIMIT:
            return None, f"the config has {descriptor.size} bytes, more than {CONFIG_BYTES_LIMIT}"
        try:
            body = await self._blobs.read(
                model.reference.repository,
                descriptor,
                byte_range=ByteRange(0, descriptor.size - 1),
                caller=model.caller,
            )
        except (MalformedArtifact, BlobUnknown) as error:
            return None, f"config: {error.message}"
        if Digest.of(body, descriptor.digest.algorithm) != descriptor.digest:
            raise BadUpstream("the upstream's config is not the content of its digest")
        return read_config(body)

    async def _find_in_layers(self, model: Model, path: str) -> FileEntry | None:
        """The file at ``path`` at the least cost: later layers first, no header too many.

        A layer that cannot be read is passed over; ``_tree`` tells why.
        """
        for number, layer in reversed(list(enumerate(model.artifact.layers))):
            if not may_hold(layer, path):
                continue
            if layer.packing != TAR:
                entry = entry_of_layer(layer, layer_index=number)
                if entry.path == path:
                    return entry
                continue
            try:
                members, match = await self._walk(model, layer, EarlyMatch(layer, path))
            except (MalformedArtifact, BlobUnknown):
                continue
            if match is not None:
                return _entry_of_member(layer, number, path, match)
            for entry in place_members(layer, members, layer_index=number):
                if entry.path == path:
                    return entry
        return None

    async def _tree(
        self, model: Model, *, documents_only: bool = False
    ) -> tuple[FileTree, dict[int, ProxyError]]:
        """All files, and by layer number why a layer cannot be read."""
        gate = asyncio.Semaphore(LAYERS_AT_ONCE)
        layers = list(enumerate(model.artifact.layers))
        walked = [
            number
            for number, layer in layers
            if layer.packing == TAR and not (documents_only and _holds_one_weight(layer))
        ][:LAYERS_WALKED_LIMIT]
        placed: dict[int, tuple[FileEntry, ...]] = {}
        failures: dict[int, ProxyError] = {}

        async def walk(number: int, layer: ModelLayer) -> None:
            async with gate:
                try:
                    members, _ = await self._walk(model, layer, None)
                except (MalformedArtifact, BlobUnknown) as error:
                    failures[number] = error
                    placed[number] = (_broken_entry(layer, number, error.message),)
                else:
                    placed[number] = place_members(layer, members, layer_index=number)

        try:
            async with asyncio.TaskGroup() as group:
                for number in walked:
                    group.create_task(walk(number, model.artifact.layers[number]))
        except* ProxyError as raised:
            raise _first_failure(raised) from None
        entries = [
            entry
            for number, layer in layers
            for entry in placed.get(number, (entry_of_layer(layer, layer_index=number),))
        ]
        return build_tree(entries), failures

    async def _walk(
        self, model: Model, layer: ModelLayer, wanted: EarlyMatch | None
    ) -> tuple[list[Member], Member | None]:
        """Members of an uncompressed tar, up to the one ``wanted`` decides on.

        Raises:
            MalformedArtifact: no tar.
            SizeInvalid: the model's budget is spent.
        """
        size = layer.descriptor.size
        reader = TarReader(size=size)
        members: list[Member] = []
        window = FIRST_WINDOW_BYTES
        while not (reader.finished or reader.position >= size):
            wanted_bytes = ByteRange(reader.position, min(reader.position + window, size) - 1)
            async with self._blobs.open(
                model.reference.repository,
                layer.descriptor,
                byte_range=wanted_bytes,
                caller=model.caller,
            ) as part:
                model.budget.spend(part.skipped)
                chunk = b"".join([received async for received in part.chunks])
            found = reader.feed(wanted_bytes.first, chunk)
            members += found
            if wanted is not None and (match := wanted.take(found)) is not None:
                return members, match
            is_far = reader.position - wanted_bytes.last > WINDOW_BYTES_LIMIT
            window = FIRST_WINDOW_BYTES if is_far else min(2 * window, WINDOW_BYTES_LIMIT)
        reader.end()
        return members, None

    def _openable(
        self, model: Model, entry: FileEntry, *, failure: ProxyError | None = None
    ) -> ModelFile:
        if failure is not None:
            raise failure
        if entry.unsupported is not None or entry.offset is None or entry.size is None:
            raise PackingUnsupported(
                f"{entry.path[:300]!r} cannot be opened: {entry.unsupported or 'no content'}",
                detail={"layer": str(entry.layer.descriptor.digest)},
            )
        digest = entry.layer.descriptor.digest
        is_blob = entry.offset == 0 and entry.size == entry.layer.descriptor.size
        etag = f'"{digest}"' if is_blob else f'"{digest}:{entry.offset}-{entry.size}"'
        return ModelFile(entry, entry.size, etag, model, self._blobs, entry.offset)


def _entry_of_member(layer: ModelLayer, number: int, path: str, member: Member) -> FileEntry:
    return FileEntry(
        path=path,
        layer=layer,
        layer_index=number,
        size=member.size,
        exact=True,
        offset=member.offset,
        file_class=classify(path, layer.layer_class),
    )


def _broken_entry(layer: ModelLayer, number: int, reason: str) -> FileEntry:
    entry = entry_of_layer(layer, layer_index=number)
    return replace(entry, unsupported=reason, warnings=bounded((*entry.warnings, reason)))


def _holds_one_weight(layer: ModelLayer) -> bool:
    """Whether a tar is annotated as one weight file: no place to look for a README."""
    return (
        layer.layer_class is LayerClass.WEIGHT
        and layer.path is not None
        and not layer.path.endswith("/")
        and "." in layer.path.rpartition("/")[2]
    )


def _first_failure(failures: BaseExceptionGroup[ProxyError]) -> ProxyError:
    for failure in failures.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            return _first_failure(failure)
        return failure
    raise ValueError("an exception group is never empty")
