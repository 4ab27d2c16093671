"""HTTP of the embedded registry: the whole distribution API over one ``Layout``.

One route takes everything below ``/v2/``; the raw path is parsed by ``proxy.oci.endpoint`` and
dispatched by endpoint and method. No login: it listens on loopback, behind the proxy.
Source: distribution-spec v1.1; tag parameters and ``digest-algorithm`` from its successor;
``_catalog`` and ``Docker-*`` headers as distribution answers them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import assert_never
from urllib.parse import parse_qsl, quote

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.embedded.layout import Layout
from proxy.embedded.records import ManifestRecord
from proxy.embedded.uploads import BlobReader, BlobUpload
from proxy.errors import (
    BadRequest,
    BlobUnknown,
    BlobUploadInvalid,
    ChunkOutOfOrder,
    DigestInvalid,
    ManifestUnknown,
    MethodNotAllowed,
    NameInvalid,
    NotFound,
    ProxyError,
    RangeNotSatisfiable,
    SizeInvalid,
)
from proxy.oci.byterange import ByteRange, NotModified, Part, Unsatisfiable, Whole, decide
from proxy.oci.digest import Digest
from proxy.oci.endpoint import (
    Blob,
    Catalog,
    Manifest,
    Other,
    Ping,
    Referrers,
    Tags,
    Upload,
    parse,
    split_target,
)
from proxy.oci.manifest import MANIFEST_BYTES_LIMIT, OCI_INDEX
from proxy.oci.reference import RepositoryName, Tag

logger = logging.getLogger(__name__)

PIECE_BYTES = 1024 * 1024
PAGE_DEFAULT = 100
PAGE_LIMIT = 1000
# Distribution-spec, "Listing Referrers": an answer is a manifest, so as large as one may be.
REFERRERS_BYTES_LIMIT = 4 * 1024 * 1024
QUERY_FIELDS_LIMIT = 100

_CHUNK = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?")
_ALLOWED = {
    Ping: "GET, HEAD",
    Catalog: "GET, HEAD",
    Tags: "GET, HEAD",
    Referrers: "GET, HEAD",
    Manifest: "GET, HEAD, PUT, DELETE",
    Blob: "GET, HEAD, DELETE",
    Upload: "GET, HEAD, POST, PATCH, PUT, DELETE",
}


def build_registry(layout: Layout) -> web.Application:
    """The registry as an application of its own; ``layout`` stays the caller's to close.

    Run it with ``auto_decompress=False``, or pushed gzip bodies arrive inflated.
    """
    registry = _Registry(layout)
    app = web.Application(middlewares=[_errors])
    app.router.add_route("*", "/{target:.*}", registry.handle)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ProxyError as error:
        return _error(error)
    except web.RequestPayloadError:
        return _error(BadRequest("expected the announced body, it ended early"))
    except web.HTTPException as error:
        if error.status == 404:  # ``OPTIONS *`` and the like, which no route can match
            return _error(NotFound("expected a path below /v2/"))
        raise
    except ConnectionError:
        raise
    except OSError as error:
        logger.exception("layout failed method=%s", request.method)
        return _error(ProxyError(f"the layout cannot be read or written: {error.strerror}"))


class _Registry:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Parse the raw target once and go to the endpoint's own method."""
        path, query_text = split_target(request.raw_path)
        if path != "/v2" and not path.startswith("/v2/"):
            raise NotFound(f"expected a path below /v2/, found {path[:200]!r}")
        try:
            pairs = parse_qsl(query_text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_LIMIT)
        except ValueError as error:
            raise BadRequest(f"expected at most {QUERY_FIELDS_LIMIT} query fields") from error
        query = dict(reversed(pairs))
        endpoint = parse(path)
        method = "GET" if request.method == "HEAD" else request.method
        match endpoint, method:
            case Ping(), "GET":
                return _json({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})
            case Catalog(), "GET":
                return self._catalog(query)
            case Tags(repository), "GET":
                return self._tags(repository, query)
            case Referrers(repository, digest), "GET":
                return self._referrers(repository, digest, query)
            case Manifest(repository, reference), "GET":
                return await self._get_manifest(request, repository, reference)
            case Manifest(repository, reference), "PUT":
                tags = [Tag.parse(value) for key, value in pairs if key == "tag"]
                return await self._put_manifest(request, repository, reference, tags=tags)
            case Manifest(repository, reference), "DELETE":
                return await self._delete_manifest(repository, reference)
            case Blob(repository, digest), "GET":
                return await self._get_blob(request, repository, digest)
            case Blob(repository, digest), "DELETE":
                await self._layout.delete_blob(repository, _known_blob(repository, digest))
                return web.Response(status=202)
            case Upload(repository, ""), "POST":
                return await self._start_upload(request, repository, query)
            case Upload(repository, session), _ if session:
                upload = self._layout.upload(repository, session)
                return await self._step(request, upload, method=method, query=query)
            case Other(), _:
                raise NotFound(f"expected an address of the distribution API, found {path!r}")
            case _:
                raise MethodNotAllowed(
                    f"expected {_ALLOWED[type(endpoint)]}, found {request.method}",
                    headers=(("Allow", _ALLOWED[type(endpoint)]),),
                )

    # Lists -------------------------------------------------------------------------------------

    def _catalog(self, query: Mapping[str, str]) -> web.Response:
        names, headers = _page(
            self._layout.repositories(), query, default=PAGE_DEFAULT, path="/v2/_catalog"
        )
        return _json({"repositories": names}, headers=headers)

    def _tags(self, repository: RepositoryName, query: Mapping[str, str]) -> web.Response:
        path = f"/v2/{repository}/tags/list"
        tags, headers = _page(self._layout.tags(repository), query, default=None, path=path)
        return _json({"name": repository.text, "tags": tags}, headers=headers)

    def _referrers(
        self, repository: RepositoryName, subject: Digest | str, query: Mapping[str, str]
    ) -> web.Response:
        wanted, last = query.get("artifactType"), query.get("last", "")
        headers = {} if wanted is None else {"OCI-Filters-Applied": "artifactType"}
        found: list[dict[str, object]] = []
        size = 0
        # An algorithm we do not know has no referrers here, which is no error.
        known = subject if isinstance(subject, Digest) else None
        for manifest in self._layout.referrers(repository, known) if known else ():
            if str(manifest.digest) <= last or wanted not in (None, manifest.artifact_type):
                continue
            descriptor = _descriptor(manifest)
            size += len(json.dumps(descriptor))
            if found and size > REFERRERS_BYTES_LIMIT:
                fields = {"last": str(found[-1]["digest"])}
                if wanted is not None:
                    fields["artifactType"] = wanted
                headers["Link"] = _link(f"/v2/{repository}/referrers/{subject}", fields)
                break
            found.append(descriptor)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return _json(index, headers=headers, content_type=OCI_INDEX)

    # Manifests ---------------------------------------------------------------------------------

    async def _get_manifest(
        self, request: web.Request, repository: RepositoryName, reference: Tag | Digest | str
    ) -> web.Response:
        manifest = self._layout.find(repository, _known_manifest(repository, reference))
        etag = f'"{manifest.digest}"'
        headers = {
            "Content-Type": manifest.media_type,
            "Docker-Content-Digest": str(manifest.digest),
            "ETag": etag,
        }
        # Accept is not looked at: there is one form of a manifest, the pushed one.
        decision = decide(
            size=manifest.size,
            etag=etag,
            range_header=None,
            if_range=None,
            if_none_match=request.headers.get("If-None-Match"),
        )
        if isinstance(decision, NotModified):
            return web.Response(status=304, headers={"ETag": etag})
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(manifest.size)})
        return web.Response(body=await self._layout.read_manifest(manifest), headers=headers)

    async def _put_manifest(
        self,
        request: web.Request,
        repository: RepositoryName,
        reference: Tag | Digest | str,
        *,
        tags: Sequence[Tag],
    ) -> web.Response:
        if isinstance(reference, str):
            raise DigestInvalid(f"expected a sha256 or sha512 digest, found {reference[:160]!r}")
        digest = reference if isinstance(reference, Digest) else None
        if isinstance(reference, Tag):
            tags = [reference]  # further tags are defined for a push by digest only
        body = await _manifest_body(request)
        media_type = request.headers.get("Content-Type", "").strip() or None
        manifest = await self._layout.put_manifest(
            repository, body, media_type=media_type, digest=digest, tags=tags
        )
        headers = {
            "Location": f"/v2/{repository}/manifests/{manifest.digest}",
            "Docker-Content-Digest": str(manifest.digest),
        }
        if manifest.subject is not None:
            headers["OCI-Subject"] = str(manifest.subject)
        if digest is not None and tags:
            headers["OCI-Tag"] = ", ".join(tag.text for tag in tags)
        return web.Response(status=201, headers=headers)

    async def _delete_manifest(
        self, repository: RepositoryName, reference: Tag | Digest | str
    ) -> web.Response:
        known = _known_manifest(repository, reference)
        if isinstance(known, Tag):
            await self._layout.delete_tag(repository, known)
        else:
            await self._layout.delete_manifest(repository, known)
        return web.Response(status=202)

    # Blobs -------------------------------------------------------------------------------------

    async def _get_blob(
        self, request: web.Request, repository: RepositoryName, digest: Digest | str
    ) -> web.StreamResponse:
        known = _known_blob(repository, digest)
        blob = self._layout.open_blob(repository, known)
        try:
            etag = f'"{known}"'
            decision = decide(
                size=blob.size,
                etag=etag,
                # RFC 9110 §14.2: Range has a meaning for GET only.
                range_header=request.headers.get("Range") if request.method == "GET" else None,
                if_range=request.headers.get("If-Range"),
                if_none_match=request.headers.get("If-None-Match"),
            )
            headers = {
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": str(known),
                "ETag": etag,
                "Accept-Ranges": "bytes",
            }
            match decision:
                case NotModified():
                    return web.Response(status=304, headers={"ETag": etag})
                case Unsatisfiable():
                    raise RangeNotSatisfiable(
                        f"expected a range inside {blob.size} bytes",
                        headers=(("Content-Range", f"bytes */{blob.size}"),),
                    )
                case Part(part):
                    headers["Content-Range"] = part.content_range(blob.size)
                    response = web.StreamResponse(status=206, headers=headers)
                case Whole():
                    part = ByteRange(0, blob.size - 1)
                    response = web.StreamResponse(headers=headers)
                case _:
                    assert_never(decision)
            response.content_length = part.length
            await response.prepare(request)
            if request.method == "GET":
                await _send(request, response, blob, part)
            return response
        finally:
            blob.close()

    # Uploads -----------------------------------------------------------------------------------

    async def _start_upload(
        self, request: web.Request, repository: RepositoryName, query: Mapping[str, str]
    ) -> web.Response:
        if "mount" in query:
            digest = Digest.parse(query["mount"])
            if self._mount(repository, digest, query.get("from")):
                return _created(repository, digest)
            return _accepted(await self._layout.start_upload(repository), status=202)
        if "digest" in query:
            digest = Digest.parse(query["digest"])
            upload = await self._layout.start_upload(repository, algorithm=digest.algorithm)
            try:
                async with upload.turn:
                    await self._append(request, upload)
                    await self._layout.commit_upload(upload, digest)
            finally:
                await self._layout.cancel_upload(upload)
            return _created(repository, digest)
        algorithm = query.get("digest-algorithm", "sha256")
        if algorithm not in ("sha256", "sha512"):
            raise DigestInvalid(f"expected sha256 or sha512, found {algorithm[:100]!r}")
        upload = await self._layout.start_upload(repository, algorithm=algorithm)
        return _accepted(upload, status=202)

    def _mount(self, repository: RepositoryName, digest: Digest, source: str | None) -> bool:
        if source is None:
            return False  # whoever may not name a repository holding it, uploads it
        try:
            return self._layout.mount(repository, digest, source=RepositoryName.parse(source))
        except NameInvalid:
            return False

    async def _step(
        self, request: web.Request, upload: BlobUpload, *, method: str, query: Mapping[str, str]
    ) -> web.Response:
        if method == "GET":
            return _accepted(upload, status=204)
        if method == "DELETE":
            await self._layout.cancel_upload(upload)
            return web.Response(status=204)
        if method == "PATCH":
            async with upload.turn:
                await self._append(request, upload)
            return _accepted(upload, status=202)
        if method == "PUT":
            digest = Digest.parse(query.get("digest", ""))
            async with upload.turn:
                await self._append(request, upload)
                await self._layout.commit_upload(upload, digest)
            return _created(upload.repository, digest)
        allowed = "GET, HEAD, PATCH, PUT, DELETE"
        raise MethodNotAllowed(
            f"expected {allowed}, found {request.method}", headers=(("Allow", allowed),)
        )

    async def _append(self, request: web.Request, upload: BlobUpload) -> None:
        claim = request.headers.get("Content-Range")
        if claim is None:
            async for piece in _pieces(request):
                await upload.append(piece)
            return
        match = _CHUNK.fullmatch(claim.strip())
        if match is None or int(match[2]) < int(match[1]):
            raise BlobUploadInvalid(f"expected a Content-Range of a-b, found {claim[:100]!r}")
        first, size = int(match[1]), int(match[2]) - int(match[1]) + 1
        if first != upload.size:
            raise ChunkOutOfOrder(
                f"expected a chunk that starts at byte {upload.size}, found {first}",
                headers=tuple(_progress(upload).items()),
            )
        announced = request.content_length
        if announced not in (None, size) or not await upload.append_exactly(
            _pieces(request), size=size
        ):
            raise BlobUploadInvalid(f"expected the {size} bytes of Content-Range {claim[:100]!r}")


def _known_manifest(repository: RepositoryName, reference: Tag | Digest | str) -> Tag | Digest:
    if isinstance(reference, str):
        raise ManifestUnknown(f"{repository} has no manifest {reference[:160]!r}")
    return reference


def _known_blob(repository: RepositoryName, digest: Digest | str) -> Digest:
    if isinstance(digest, str):
        raise BlobUnknown(f"{repository} has no blob {digest[:160]!r}")
    return digest


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces of about 1 MiB: one hop to a thread for each, not for each packet."""
    held: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        held.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def _manifest_body(request: web.Request) -> bytes:
    excess = SizeInvalid(f"expected a manifest of at most {MANIFEST_BYTES_LIMIT} bytes")
    if (request.content_length or 0) > MANIFEST_BYTES_LIMIT:
        raise excess
    held = bytearray()
    async for piece in _pieces(request):
        held += piece
        if len(held) > MANIFEST_BYTES_LIMIT:
            raise excess
    return bytes(held)


async def _send(
    request: web.Request, response: web.StreamResponse, blob: BlobReader, part: ByteRange
) -> None:
    """Write the bytes of ``part``; a blob cut short meanwhile aborts, never ends short."""
    position = part.first
    while position <= part.last:
        try:
            piece = await blob.read(position, min(PIECE_BYTES, part.last + 1 - position))
        except OSError:
            logger.exception("blob unreadable")
            piece = b""
        if not piece:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the blob ends before its size")
        await response.write(piece)
        position += len(piece)


def _page(
    names: list[str], query: Mapping[str, str], *, default: int | None, path: str
) -> tuple[list[str], dict[str, str]]:
    """Names after ``last``, at most ``n`` of them, and the link to the rest."""
    text = query.get("n")
    if text is not None and not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadRequest(f"expected n to be a count, found {text[:100]!r}")
    count = default if text is None else min(int(text), PAGE_LIMIT)
    rest = [name for name in names if name > query.get("last", "")]
    if count is None or len(rest) <= count:
        return rest, {}
    if count == 0:
        return [], {}
    return rest[:count], {"Link": _link(path, {"n": str(count), "last": rest[count - 1]})}


def _link(path: str, fields: Mapping[str, str]) -> str:
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in fields.items())
    return f'<{path}?{query}>; rel="next"'


def _descriptor(manifest: ManifestRecord) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": manifest.size,
    }
    if manifest.artifact_type is not None:
        found["artifactType"] = manifest.artifact_type
    if manifest.annotations:
        found["annotations"] = dict(manifest.annotations)
    return found


def _created(repository: RepositoryName, digest: Digest) -> web.Response:
    headers = {
        "Location": f"/v2/{repository}/blobs/{digest}",
        "Docker-Content-Digest": str(digest),
    }
    return web.Response(status=201, headers=headers)


def _accepted(upload: BlobUpload, *, status: int) -> web.Response:
    return web.Response(status=status, headers=_progress(upload))


def _progress(upload: BlobUpload) -> dict[str, str]:
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.session}",
        # Nothing yet and one byte look alike, as in distribution: a range cannot be empty.
        "Range": f"0-{max(upload.size - 1, 0)}",
        "Docker-Upload-UUID": upload.session,
    }


def _json(
    document: object,
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    body = json.dumps(document).encode("ascii")
    return web.Response(body=body, headers={**(headers or {}), "Content-Type": content_type})


def _error(error: ProxyError) -> web.Response:
    headers = [*error.headers, ("Content-Type", "application/json")]
    return web.Response(status=error.status, body=error.to_oci_json(), headers=headers)
