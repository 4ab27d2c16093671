"""What the model routes need: a model's record, its files, one file's bytes.

Each call begins with the manifest, asked for as the caller: that is the proof that the caller may
read the repository. Where a file lies and how it is read is the business of ``Layers``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.content.archives import Packed
from proxy.content.blobs import Blobs
from proxy.content.files import ModelFile
from proxy.content.layers import Access, BudgetSpent, Layers
from proxy.content.manifests import Manifests, StoredManifest
from proxy.errors import (
    BadUpstream,
    BlobUnknown,
    MalformedArtifact,
    ManifestUnknown,
    ProxyError,
    SizeInvalid,
)
from proxy.formats.tar import Member
from proxy.model.additions import ADDITIONS, choose
from proxy.model.artifact import RAW, LayerClass, ModelArtifact, ModelLayer, bounded, classify
from proxy.model.families import FAMILIES, is_model_type, recognise, with_config
from proxy.model.families.family import Family
from proxy.model.globs import Filter
from proxy.model.placement import EarlyMatch, FileEntry, entry_of_layer, may_hold, place_members
from proxy.model.record import model_record, read_config, set_record
from proxy.model.tree import Directory, FileTree, build_tree
from proxy.model.variants import Choice, Variant, variants
from proxy.model.variants import choose as choose_variant
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest
from proxy.oci.manifest import Index, Manifest, decode
from proxy.oci.reference import Reference
from proxy.upstream.identity import Caller

CONFIG_BYTES_LIMIT = 4 * 1024 * 1024
LAYERS_WALKED_LIMIT = 1_000
LAYERS_AT_ONCE = 4
# An index may hold indexes, so deep.
INDEX_DEPTH_LIMIT = 4
# A manifest of this size takes some milliseconds to decode; a larger one is decoded in a thread.
DECODE_INLINE_BYTES = 64 * 1024
# A manifest of more layers is read, and its record written, in a thread.
LAYERS_INLINE = 500
# Placing more members, or joining more files, than this is done in a thread.
MEMBERS_INLINE = 2_000
# Files of one model, and what a path that is written once may add to all of theirs.
FILES_LIMIT = 500_000
PATHS_BYTES_LIMIT = 64 * 1024 * 1024
# Paths named in the answer to a path that is not there.
PATHS_SHOWN = 100

_NO_CHOICE = Choice()
_ALL = Filter.parse((), ())


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest that is a model, as one caller may read it; ``index`` is what led to it."""

    reference: Reference
    access: Access
    stored: StoredManifest
    artifact: ModelArtifact
    config: dict[str, object] | None
    config_warning: str | None
    index: Digest | None = None


@dataclass(frozen=True, slots=True)
class ModelSet:
    """An index of several models of which none was asked for."""

    reference: Reference
    stored: StoredManifest
    index: Index


class Models:
    """Answers about models.

    Every method takes the ``choice`` of a variant, where the reference is an index, and raises what
    ``Manifests.get`` raises, ManifestUnknown for a manifest that is no model or for a set of models
    of which none was chosen, and MalformedArtifact for one that cannot be read.
    """

    def __init__(
        self,
        manifests: Manifests,
        blobs: Blobs,
        layers: Layers,
        *,
        families: Sequence[Family] = FAMILIES,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._layers = layers
        self._families = families

    async def describe(
        self, reference: Reference, *, caller: Caller, choice: Choice = _NO_CHOICE
    ) -> dict[str, object]:
        """The model record, as JSON values; a config that cannot be read is a warning in it.

        A set of models of which none was chosen has a record of its own, with its variants.
        """
        model = await self._resolve(reference, caller, choice)
        if isinstance(model, ModelSet):
            return set_record(
                model.index,
                repository=reference.repository,
                tag=reference.tag,
                digest=model.stored.digest,
                media_type=model.stored.media_type,
            )
        if model.config is None and model.config_warning is None:
            model = await self._with_config(model)
        if len(model.artifact.layers) > LAYERS_INLINE:
            return await asyncio.to_thread(_record, model)
        return _record(model)

    async def files(
        self,
        reference: Reference,
        wanted: Filter = _ALL,
        *,
        caller: Caller,
        choice: Choice = _NO_CHOICE,
    ) -> FileTree:
        """The files of the model that are ``wanted``; a layer that cannot be read is one entry."""
        tree, _ = await self._tree(await self._model(reference, caller, choice))
        return tree if wanted == _ALL else await asyncio.to_thread(tree.selected, wanted)

    async def find(
        self, reference: Reference, path: str, *, caller: Caller, choice: Choice = _NO_CHOICE
    ) -> ModelFile | Directory:
        """The file or directory at ``path``.

        Raises:
            BlobUnknown: nothing there, or a link; the detail names what there is.
            MalformedArtifact: a file that cannot be opened.
            ProxyError: why a layer cannot be read that is the file, or might hold it.
        """
        model = await self._model(reference, caller, choice)
        entry = await self._find_in_layers(model, path)
        if entry is not None:
            return await self._openable(model, entry)
        tree, failures = await self._tree(model)
        found = tree.lookup(path)
        if isinstance(found, FileEntry):
            return await self._openable(model, found, failure=_failure_of(found, failures))
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

    async def addition(
        self, reference: Reference, name: str, *, caller: Caller, choice: Choice = _NO_CHOICE
    ) -> ModelFile:
        """The file that is the model's ``name``: readme or license.

        Raises:
            BlobUnknown: the model has none.
            SizeInvalid: larger than the addition's byte cap.
        """
        model = await self._model(reference, caller, choice)
        tree, failures = await self._tree(model, documents_only=True)
        entry = choose(tree.entries, name)
        if entry is None:
            raise BlobUnknown(
                f"{reference} has no {name}",
                detail={"files": [found.path for found in tree.entries[:PATHS_SHOWN]]},
            )
        found = await self._openable(model, entry, failure=_failure_of(entry, failures))
        found = await found.measured()
        limit = ADDITIONS[name].bytes_limit
        if found.size is not None and found.size > limit:
            raise SizeInvalid(
                f"expected a {name} of at most {limit} bytes, found {found.size}; "
                f"its bytes are at files/{entry.path}"
            )
        return found

    async def archive(
        self,
        reference: Reference,
        *,
        caller: Caller,
        wanted: Filter,
        choice: Choice = _NO_CHOICE,
    ) -> Packed:
        """The files that ``wanted`` lets through, to be sent as one archive.

        Raises:
            BlobUnknown: there are none.
            MalformedArtifact: one of them cannot be opened; the message says how to leave it out.
        """
        model = await self._model(reference, caller, choice)
        tree, failures = await self._tree(model)
        # Globs cost time: as many of them as there may be take seconds.
        entries = (await asyncio.to_thread(tree.selected, wanted)).entries
        if not entries:
            raise BlobUnknown(
                f"no file of {reference} was asked for",
                detail={"files": [found.path for found in tree.entries[:PATHS_SHOWN]]},
            )
        files: list[ModelFile] = []
        for count, entry in enumerate(entries):
            if count % 100 == 0:  # where nothing is to be read, nothing here would wait
                await asyncio.sleep(0)
            try:
                found = await self._openable(model, entry, failure=_failure_of(entry, failures))
                files.append(await found.measured())
            except BudgetSpent:
                raise
            except (BlobUnknown, MalformedArtifact, SizeInvalid) as error:
                raise MalformedArtifact(
                    f"{error.message}; leave it out with ?exclude=/{entry.path[:300]}"
                ) from error
        return await asyncio.to_thread(Packed, files, model.access, self._layers)

    async def _model(self, reference: Reference, caller: Caller, choice: Choice) -> Model:
        found = await self._resolve(reference, caller, choice)
        if isinstance(found, ModelSet):
            raise ManifestUnknown(
                f"{reference} is a set of models; choose one with ?variant=<digest> or ?platform=",
                # The record has their metadata too, which only the index bounds.
                detail={
                    "variants": [
                        replace(one, metadata={}).to_json()
                        for one in variants(found.index)[:PATHS_SHOWN]
                    ]
                },
            )
        return found

    async def _resolve(
        self, reference: Reference, caller: Caller, choice: Choice
    ) -> Model | ModelSet:
        stored = await self._manifests.get(reference, caller=caller)
        manifest = await _decoded(stored)
        index: Digest | None = None
        depth = 0
        while isinstance(manifest, Index):
            depth += 1
            if depth > INDEX_DEPTH_LIMIT:
                raise MalformedArtifact(
                    f"expected indexes at most {INDEX_DEPTH_LIMIT} deep, found more"
                )
            variant = self._chosen(manifest, choice)
            if variant is None:
                return ModelSet(reference, stored, manifest)
            index = index or stored.digest
            child = Reference(reference.repository, None, variant.digest)
            stored = await self._manifests.get(child, caller=caller)
            manifest = await _decoded(stored)
            choice = replace(choice, variant=None)
        if len(manifest.layers) > LAYERS_INLINE:
            artifact = await asyncio.to_thread(recognise, manifest, self._families)
        else:
            artifact = recognise(manifest, self._families)
        if artifact is None:
            raise ManifestUnknown(
                f"{reference} is no model of a known family",
                detail={
                    "artifactType": manifest.artifact_type,
                    "config": manifest.config.media_type if manifest.config else None,
                },
            )
        access = Access(reference.repository, caller)
        model = Model(reference, access, stored, artifact, None, None, index)
        if artifact.needs_config:
            model = await self._with_config(model)
            if model.config is not None:
                return replace(model, artifact=with_config(artifact, model.config, self._families))
        return model

    def _chosen(self, index: Index, choice: Choice) -> Variant | None:
        return choose_variant(
            index, choice, is_model_type=lambda text: is_model_type(text, self._families)
        )

    async def _with_config(self, model: Model) -> Model:
        """The model with its config blob, or with why that cannot be read."""
        descriptor = model.artifact.manifest.config
        if descriptor is None or descriptor.size == 0:
            return model
        if descriptor.size > CONFIG_BYTES_LIMIT:
            warning = f"the config has {descriptor.size} bytes, more than {CONFIG_BYTES_LIMIT}"
            return replace(model, config_warning=warning)
        try:
            body = await self._blobs.read(
                model.reference.repository,
                descriptor,
                byte_range=ByteRange(0, descriptor.size - 1),
                caller=model.access.caller,
            )
        except (MalformedArtifact, BlobUnknown) as error:
            return replace(model, config_warning=f"config: {error.message}")
        if Digest.of(body, descriptor.digest.algorithm) != descriptor.digest:
            raise BadUpstream("the upstream's config is not the content of its digest")
        config, config_warning = read_config(body)
        return replace(model, config=config, config_warning=config_warning)

    async def _find_in_layers(
        self, model: Model, path: str, *, only: int | None = None
    ) -> FileEntry | None:
        """The file at ``path`` at the least cost: later layers first, no header too many.

        ``only`` is the number of the one layer to look in.

        A layer that cannot be read is passed over; ``_tree`` tells why.
        """
        layers = model.artifact.layers
        for number in range(len(layers) - 1, -1, -1) if only is None else (only,):
            declared = layers[number]
            if not may_hold(declared, path):
                continue
            try:
                layer, _ = await self._layers.settled(model.access, declared)
                if layer.packing.container == "raw":
                    entry = entry_of_layer(layer, layer_index=number)
                    if entry.path == path:
                        return entry
                    continue
                match = await self._layers.find(model.access, layer, EarlyMatch(layer, path))
                if match is not None:
                    return _entry_of_member(layer, number, path, match)
                members, failure = await self._layers.members(model.access, layer)
                placed = () if failure is not None else await _placed(layer, members, number)
            except BudgetSpent:
                raise
            except (MalformedArtifact, BlobUnknown, SizeInvalid):
                continue
            for entry in placed:
                if entry.path == path:
                    return entry
        return None

    async def _tree(
        self, model: Model, *, documents_only: bool = False
    ) -> tuple[FileTree, dict[int, ProxyError]]:
        """All files, and by layer number why a layer cannot be read, or not to its end."""
        gate = asyncio.Semaphore(LAYERS_AT_ONCE)
        placed: dict[int, tuple[FileEntry, ...]] = {}
        failures: dict[int, ProxyError] = {}
        count = 0
        opened = [
            number
            for number, layer in enumerate(model.artifact.layers)
            if not (layer.trusted and layer.packing == RAW)
            and not (documents_only and _holds_one_weight(layer))
        ][:LAYERS_WALKED_LIMIT]

        async def place(number: int, declared: ModelLayer) -> None:
            nonlocal count
            async with gate:
                try:
                    placed[number], failure = await self._place(model, number, declared)
                except BudgetSpent:
                    raise
                except (MalformedArtifact, BlobUnknown, SizeInvalid) as error:
                    failure = error
                    placed[number] = (_broken_entry(declared, number, error.message),)
            if failure is not None:
                failures[number] = failure
            count += len(placed[number])
            if count > FILES_LIMIT:
                raise SizeInvalid(f"expected a model of at most {FILES_LIMIT} files, found more")

        try:
            async with asyncio.TaskGroup() as group:
                for number in opened:
                    group.create_task(place(number, model.artifact.layers[number]))
        except* ProxyError as raised:
            raise _first_failure(raised) from None

        def joined() -> FileTree:
            return build_tree(
                entry
                for number, layer in enumerate(model.artifact.layers)
                for entry in (
                    placed[number]
                    if number in placed
                    else (entry_of_layer(layer, layer_index=number),)
                )
            )

        if count + len(model.artifact.layers) > MEMBERS_INLINE:
            return await asyncio.to_thread(joined), failures
        return joined(), failures

    async def _place(
        self, model: Model, number: int, declared: ModelLayer
    ) -> tuple[tuple[FileEntry, ...], ProxyError | None]:
        """The files of one layer, and the fault that ends them early."""
        layer, warning = await self._layers.settled(model.access, declared)
        failure: ProxyError | None = None
        if layer.packing.container == "raw":
            if layer.only_below is not None:
                return (), None
            entry = entry_of_layer(layer, layer_index=number)
            size = await self._layers.plain_size(model.access, layer, scan=False)
            if size is not None:
                entry = replace(entry, size=size, exact=True)
            entries: tuple[FileEntry, ...] = (entry,)
        elif _is_told(layer) and not self._layers.is_indexed(model.access, layer):
            entries = (entry_of_layer(layer, layer_index=number),)
        else:
            members, failure = await self._layers.members(model.access, layer)
            entries = await _placed(layer, members, number)
            if failure is not None:
                entries = (*entries, _broken_entry(layer, number, failure.message))
        if warning is not None and entries:
            first = replace(entries[0], warnings=bounded((*entries[0].warnings, warning)))
            entries = (first, *entries[1:])
        return entries, failure

    async def _openable(
        self, model: Model, entry: FileEntry, *, failure: ProxyError | None = None
    ) -> ModelFile:
        if failure is not None:
            raise failure
        digest = entry.layer.descriptor.digest
        if entry.offset is None and entry.unsupported is None:
            # Listed by its annotation alone; where it lies is told by the layer.
            found = await self._find_in_layers(model, entry.path, only=entry.layer_index)
            if found is not None and found.offset is not None:
                return await self._openable(model, found)
        if entry.unsupported is not None or entry.offset is None:
            reason = f"{entry.path[:300]!r} cannot be opened: {entry.unsupported or 'no content'}"
            detail = {"layer": str(digest)}
            if entry.link_target is not None:
                raise BlobUnknown(reason, detail=detail)
            raise MalformedArtifact(reason, detail=detail)
        layer = entry.layer
        if layer.packing.container == "raw" and layer.packing.compression is not None:
            size = await self._layers.plain_size(model.access, layer, scan=False)
            return ModelFile(entry, size, f'"{digest}:plain"', model.access, self._layers)
        is_blob = entry.offset == 0 and entry.size == layer.descriptor.size
        etag = f'"{digest}"' if is_blob else f'"{digest}:{entry.offset}-{entry.size}"'
        return ModelFile(entry, entry.size, etag, model.access, self._layers)


def _record(model: Model) -> dict[str, object]:
    named = [
        entry_of_layer(layer, layer_index=number)
        for number, layer in enumerate(model.artifact.layers)
    ]
    return model_record(
        model.artifact,
        repository=model.reference.repository,
        tag=model.reference.tag,
        digest=model.stored.digest,
        media_type=model.stored.media_type,
        config=model.config,
        config_warning=model.config_warning,
        additions=[name for name in ADDITIONS if choose(named, name) is not None],
        index=model.index,
    )


async def _decoded(stored: StoredManifest) -> Manifest | Index:
    if len(stored.body) > DECODE_INLINE_BYTES:
        return await asyncio.to_thread(decode, stored.body)
    return decode(stored.body)


async def _placed(
    layer: ModelLayer, members: Sequence[Member], number: int
) -> tuple[FileEntry, ...]:
    """``place_members``, in a thread where they are many.

    Raises:
        SizeInvalid: the directory that they lie below would make their paths too long together.
    """
    above = max(len(layer.path or ""), len(layer.member_prefix or ""))
    if len(members) * above > PATHS_BYTES_LIMIT:
        raise SizeInvalid(
            f"expected paths of at most {PATHS_BYTES_LIMIT} characters together, found "
            f"{len(members)} files below one of {above}"
        )
    # Adding up tens of thousands of members takes as long as reading them.
    if len(members) > MEMBERS_INLINE:
        return await asyncio.to_thread(place_members, layer, members, layer_index=number)
    return place_members(layer, members, layer_index=number)


def _failure_of(entry: FileEntry, failures: Mapping[int, ProxyError]) -> ProxyError | None:
    """Why ``entry`` cannot be opened, where its layer is to blame and not the file."""
    return failures.get(entry.layer_index) if entry.is_broken_layer else None


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
    warnings = bounded((*entry.warnings, reason))
    return replace(entry, offset=None, unsupported=reason, warnings=warnings, is_broken_layer=True)


def _is_told(layer: ModelLayer) -> bool:
    """Whether annotations tell the one file of a compressed layer: listing need not read it."""
    return (
        layer.packing.compression is not None
        and layer.declared_size is not None
        and _names_a_file(layer)
    )


def _holds_one_weight(layer: ModelLayer) -> bool:
    """Whether a tar is annotated as one weight file: no place to look for a README."""
    return layer.layer_class is LayerClass.WEIGHT and _names_a_file(layer)


def _names_a_file(layer: ModelLayer) -> bool:
    path = layer.path
    return path is not None and not path.endswith("/") and "." in path.rpartition("/")[2]


def _first_failure(failures: BaseExceptionGroup[ProxyError]) -> ProxyError:
    for failure in failures.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            return _first_failure(failure)
        return failure
    raise ValueError("an exception group is never empty")
