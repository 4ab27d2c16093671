"""``/cnai/``: models as JSON and files. Reads the address, asks ``Models``, writes the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from multidict import CIMultiDict

from proxy.content.models import ModelFile
from proxy.errors import BlobUnknown, RangeNotSatisfiable
from proxy.facade import address
from proxy.facade.caching import file_cache_headers
from proxy.facade.client import expect
from proxy.facade.content_headers import content_disposition, content_type, document_type
from proxy.facade.credentials import caller_of
from proxy.facade.responses import CONTENT_SAFETY, json_response
from proxy.facade.selection import Selection, take_namespace
from proxy.facade.sending import send_answer, send_chunks
from proxy.facade.trace import trace_of
from proxy.model.additions import ADDITIONS
from proxy.model.tree import Directory, subtree_json
from proxy.oci import byterange
from proxy.oci.byterange import ByteRange
from proxy.oci.endpoint import split_target
from proxy.oci.reference import Reference

_VIEWS = ("", "files", *ADDITIONS)


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
        models = site.models
        if asked.view == "files":
            trace.route = "/cnai/<ref>/files"
            if not asked.path:
                tree = await models.files(asked.reference, caller=caller)
                return json_response(tree.to_json(flat=_is_set(request, "flat")))
            trace.route = "/cnai/<ref>/files/<path>"
            trace.path = asked.path[:500]
            found = await models.find(asked.reference, asked.path, caller=caller)
            if isinstance(found, Directory):
                return json_response(subtree_json(found))
            as_type = content_type(found.entry.path)
            return await self._send(request, found, asked.reference, as_type=as_type)
        if asked.path or asked.view not in _VIEWS:
            raise BlobUnknown(
                f"a model has no {asked.view[:100]!r}",
                detail={"views": [view for view in _VIEWS if view]},
            )
        if asked.view in ADDITIONS:
            trace.route = f"/cnai/<ref>/{asked.view}"
            document = await models.addition(asked.reference, asked.view, caller=caller)
            as_type = document_type(document.entry.path)
            return await self._send(request, document, asked.reference, as_type=as_type)
        return json_response(await models.describe(asked.reference, caller=caller))

    async def _send(
        self, request: web.Request, found: ModelFile, reference: Reference, *, as_type: str
    ) -> web.StreamResponse:
        by_digest = reference.digest is not None
        caching = file_cache_headers(by_digest=by_digest)
        headers = CIMultiDict({**CONTENT_SAFETY, **caching})
        headers["ETag"] = found.etag
        headers["Accept-Ranges"] = "bytes"
        decision = byterange.decide(
            size=found.size,
            etag=found.etag,
            range_header=request.headers.get(hdrs.RANGE),
            if_range=request.headers.get(hdrs.IF_RANGE),
            if_none_match=request.headers.get(hdrs.IF_NONE_MATCH),
        )
        status, wanted = 200, ByteRange(0, found.size - 1)
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
                headers["Content-Range"] = asked.content_range(found.size)
            case byterange.Whole():
                pass
        headers["Content-Type"] = as_type
        headers["Content-Length"] = str(wanted.length)
        headers["Content-Disposition"] = content_disposition(
            found.entry.path, attachment=_is_set(request, "download")
        )
        if request.method == hdrs.METH_HEAD or wanted.length == 0:
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


def _is_set(request: web.Request, name: str) -> bool:
    return request.query.get(name, "0") not in ("0", "false", "")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
