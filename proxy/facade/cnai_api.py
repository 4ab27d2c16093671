"""``/cnai/``: models as JSON and files. Reads the address, asks ``Models``, writes the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from itertools import islice

from aiohttp import hdrs, web
from multidict import CIMultiDict

from proxy.content.archives import Packed
from proxy.content.files import ModelFile
from proxy.errors import BlobUnknown, RangeNotSatisfiable
from proxy.facade import address
from proxy.facade.caching import file_cache_headers
from proxy.facade.client import expect
from proxy.facade.content_headers import content_disposition, content_type, document_type
from proxy.facade.credentials import caller_of
from proxy.facade.responses import CONTENT_SAFETY, JSON_HEADERS, json_response
from proxy.facade.selection import Selection, take_namespace
from proxy.facade.sending import send_answer, send_chunks
from proxy.facade.trace import trace_of
from proxy.formats.archive import ArchiveKind
from proxy.model.additions import ADDITIONS
from proxy.model.globs import Filter
from proxy.model.tree import Directory, subtree_json
from proxy.model.variants import Choice
from proxy.oci import byterange
from proxy.oci.endpoint import split_target
from proxy.oci.query import Query
from proxy.oci.reference import Reference

_ARCHIVES: Mapping[str, ArchiveKind] = {"archive.tar": "tar", "archive.zip": "zip"}
_VIEWS = ("", "files", *ADDITIONS, *_ARCHIVES)
# A listing of more files is written in a thread, so many at a time.
ENTRIES_INLINE = 1_000


class CnaiApi:
    """The model routes; ``write_seconds`` bounds how long a client may take no byte."""

    def __init__(self, selection: Selection, *, write_seconds: float) -> None:
        self._selection = selection
        self._write_seconds = write_seconds

    def routes(self) -> list[web.RouteDef]:
        """One catch-all for reading: names hold slashes, so the path is parsed here."""
        anything = "/cnai/{rest:(?s:.*)}"
        return [
            web.get("/cnai", self.handle, expect_handler=expect),
            web.get(anything, self.handle, allow_head=False, expect_handler=expect),
            web.head(anything, self.handle, expect_handler=expect),
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET or HEAD below ``/cnai/``."""
        trace = trace_of(request)
        trace.route = "/cnai/"
        path, query = split_target(request.raw_path)
        asked = address.parse(path)
        trace.repository = asked.reference.repository.text
        trace.reference = str(asked.reference.target)[:140]
        trace.route = "/cnai/<ref>"
        namespace, _ = take_namespace(query)
        repository = asked.reference.repository.text
        site = self._selection.select(request, repository, namespace=namespace).site
        caller = await self._selection.admit(caller_of(request), site)
        models, reference = site.models, asked.reference
        asked_query = Query.parse(query)
        choice = _choice(asked_query)
        if asked.view == "files":
            trace.route = "/cnai/<ref>/files"
            if not asked.path:
                wanted = _filter(asked_query)
                tree = await models.files(reference, wanted, caller=caller, choice=choice)
                texts = tree.to_json(flat=_is_set(request, "flat"))
                return await self._list(request, len(tree.entries), texts)
            trace.route = "/cnai/<ref>/files/<path>"
            trace.path = asked.path[:500]
            found = await models.find(reference, asked.path, caller=caller, choice=choice)
            if isinstance(found, Directory):
                return await self._list(request, found.count(), subtree_json(found))
            as_type = content_type(found.entry.path)
            return await self._send(request, found, reference, as_type=as_type)
        if asked.path or asked.view not in _VIEWS:
            raise BlobUnknown(
                f"a model has no {asked.view[:100]!r}",
                detail={"views": [view for view in _VIEWS if view]},
            )
        if asked.view in ADDITIONS:
            trace.route = f"/cnai/<ref>/{asked.view}"
            document = await models.addition(reference, asked.view, caller=caller, choice=choice)
            as_type = document_type(document.entry.path)
            return await self._send(request, document, reference, as_type=as_type)
        if (kind := _ARCHIVES.get(asked.view)) is not None:
            trace.route = f"/cnai/<ref>/{asked.view}"
            wanted = _filter(asked_query)
            packed = await models.archive(reference, caller=caller, wanted=wanted, choice=choice)
            return await self._send_archive(request, packed, reference, kind=kind)
        return json_response(await models.describe(reference, caller=caller, choice=choice))

    async def _list(
        self, request: web.Request, count: int, texts: Iterator[str]
    ) -> web.StreamResponse:
        """``texts`` as one JSON answer about ``count`` files, in a thread where they are many."""
        headers = CIMultiDict({**JSON_HEADERS, "Content-Type": "application/json"})
        if count <= ENTRIES_INLINE:
            return web.Response(body="".join(texts).encode("utf-8", "replace"), headers=headers)
        return await send_chunks(
            request, _written(texts), status=200, headers=headers, write_seconds=self._write_seconds
        )

    async def _send_archive(
        self, request: web.Request, packed: Packed, reference: Reference, *, kind: ArchiveKind
    ) -> web.StreamResponse:
        by_digest = reference.digest is not None
        headers = CIMultiDict({**CONTENT_SAFETY, **file_cache_headers(by_digest=by_digest)})
        headers["Content-Type"] = packed.media_type(kind)
        headers["Content-Length"] = str(await asyncio.to_thread(packed.size, kind))
        version = str(reference.tag) if reference.digest is None else reference.digest.short
        name = f"{reference.repository.text.rpartition('/')[2]}-{version}.{kind}"
        headers["Content-Disposition"] = content_disposition(name, attachment=True)
        trace_of(request).origin = "upstream"
        async with aclosing(packed.chunks(kind)) as chunks:
            return await send_chunks(
                request, chunks, status=200, headers=headers, write_seconds=self._write_seconds
            )

    async def _send(
        self, request: web.Request, found: ModelFile, reference: Reference, *, as_type: str
    ) -> web.StreamResponse:
        by_digest = reference.digest is not None
        caching = file_cache_headers(by_digest=by_digest)
        headers = CIMultiDict({**CONTENT_SAFETY, **caching})
        headers["ETag"] = found.etag
        headers["Accept-Ranges"] = "bytes"
        range_header = request.headers.get(hdrs.RANGE)
        if range_header is not None and found.size is None:
            if request.method == hdrs.METH_HEAD:
                range_header = None  # it promises no body: not worth reading a layer through
            else:
                found = await found.measured()
        decision = byterange.decide(
            size=found.size or 0,
            etag=found.etag,
            range_header=range_header,
            if_range=request.headers.get(hdrs.IF_RANGE),
            if_none_match=request.headers.get(hdrs.IF_NONE_MATCH),
        )
        status, wanted = 200, None
        match decision:
            case byterange.NotModified():
                return web.Response(status=304, headers=headers)
            case byterange.Unsatisfiable():
                raise RangeNotSatisfiable(
                    f"expected a range within {found.size} bytes",
                    headers=(("Content-Range", f"bytes */{found.size}"),),
                )
            case byterange.Part(range=asked):
                status, wanted = 206, asked
                headers["Content-Range"] = asked.content_range(found.size or 0)
            case byterange.Whole():
                pass
        headers["Content-Type"] = as_type
        length = found.size if wanted is None else wanted.length
        # A compressed file that nobody has read to its end yet goes out in chunks.
        if length is not None:
            headers["Content-Length"] = str(length)
        headers["Content-Disposition"] = content_disposition(
            found.entry.path, attachment=_is_set(request, "download")
        )
        if request.method == hdrs.METH_HEAD or length == 0:
            return await send_chunks(
                request,
                _nothing(),
                status=status,
                headers=headers,
                write_seconds=self._write_seconds,
            )
        trace_of(request).origin = "upstream"
        async with found.open(wanted) as part:
            if part.answer is not None:
                return await send_answer(
                    request,
                    part.answer,
                    status=status,
                    headers=headers,
                    write_seconds=self._write_seconds,
                )
            return await send_chunks(
                request,
                part.chunks,
                status=status,
                headers=headers,
                write_seconds=self._write_seconds,
            )


def _filter(query: Query) -> Filter:
    return Filter.parse(query.values("include"), query.values("exclude"))


def _choice(query: Query) -> Choice:
    """Which variant of an index is meant; of several values the first counts."""
    platform, variant = query.values("platform"), query.values("variant")
    return Choice(
        platform=platform[0] if platform else None, variant=variant[0] if variant else None
    )


def _is_set(request: web.Request, name: str) -> bool:
    return request.query.get(name, "0") not in ("0", "false", "")


async def _written(texts: Iterator[str]) -> AsyncIterator[bytes]:
    def some() -> bytes:
        return "".join(islice(texts, ENTRIES_INLINE)).encode("utf-8", "replace")

    while chunk := await asyncio.to_thread(some):
        yield chunk


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
