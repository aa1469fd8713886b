"""An S3 store for tests, in memory, with the habits of stores that are not S3: old, strict or short of rights.

It checks no signature. It keeps every body as it comes, so a body that the SDK wrapped (aws-chunked) is kept wrapped.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

# What every S3 client has sent from the beginning of signature version 4.
KNOWN_HEADERS = frozenset({"x-amz-content-sha256", "x-amz-date", "x-amz-security-token"})


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error. Without a code it has no body."""

    status: int
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def md5(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@dataclass
class OddStore:
    """What the store holds, and its habits, which may be changed at any time."""

    objects: dict[str, bytes] = field(default_factory=dict)  # path -> what it keeps
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    credentials: list[str] = field(default_factory=list)  # the access key of each request
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    url: str = ""
    etag: Callable[[bytes], str | None] = md5
    cut: Callable[[bytes], bytes] = bytes  # what it keeps of a body
    headers: dict[str, str] = field(default_factory=dict)  # of each answer
    ranges: bool = False  # it gives the part of an object that is asked for, and not the whole
    strict: bool = False  # it answers 501 to headers that it does not know
    checks_md5: bool = False
    page: int = 1000  # keys in an answer to a listing
    refuse: Callable[[str, str, str], Refusal | None] = lambda method, path, key: None

    def methods(self) -> list[str]:
        """The methods of all requests so far."""
        return [method for method, _ in self.requests]


@contextmanager
def odd_store(*, tls: ssl.SSLContext | None = None) -> Iterator[OddStore]:
    """Serves a new store on a free loopback port."""
    store = OddStore()

    class Bound(Handler):
        odd = store

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that refuse the certificate, or have seen enough

    server = Server(("127.0.0.1", 0), Bound)
    if tls is not None:
        # The handshake belongs into the connection's thread: here it would stop the accepting one.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    store.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Path-style requests for objects, listings and uploads in parts."""

    protocol_version = "HTTP/1.1"
    odd: OddStore

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            if len(body) < size:  # the client was killed: no store keeps half of an object
                raise ConnectionError("the connection ended within the body")
            return body
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _begin(self) -> tuple[str, dict[str, list[str]], bytes] | None:
        """Path, query and body; None where the request was refused."""
        parts = urlsplit(self.path)
        path, body = unquote(parts.path), self._body()
        self.odd.requests.append((self.command, path))
        match = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        key = match[1] if match else ""
        self.odd.credentials.append(key)
        refusal = self.odd.refuse(self.command, path, key) or self._unknown_header() or self._other_md5(body)
        if refusal is None:
            return path, parse_qs(parts.query, keep_blank_values=True), body
        xml = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>" if refusal.code else ""
        self._answer(refusal.status, xml.encode(), headers=refusal.headers)
        return None

    def _unknown_header(self) -> Refusal | None:
        unknown = {name.lower() for name in self.headers if name.lower().startswith("x-amz-")} - KNOWN_HEADERS
        if self.odd.strict and unknown:
            return Refusal(501, "NotImplemented", f"A header you provided is not implemented: {sorted(unknown)[0]}")
        return None

    def _other_md5(self, body: bytes) -> Refusal | None:
        sent = self.headers.get("Content-MD5")
        if self.odd.checks_md5 and sent is not None and base64.b64decode(sent) != hashlib.md5(body).digest():
            return Refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        return None

    def _answer(self, status: int, body: bytes = b"", *, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | self.odd.headers | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _kept(self, data: bytes) -> dict[str, str]:
        tag = self.odd.etag(data)
        return {} if tag is None else {"ETag": tag}

    def do_PUT(self) -> None:
        if (request := self._begin()) is None:
            return
        path, query, body = request
        kept = self.odd.cut(body)
        if "partNumber" in query:
            self.odd.parts.setdefault(query["uploadId"][0], {})[int(query["partNumber"][0])] = kept
        else:
            self.odd.objects[path] = kept
        self._answer(200, headers=self._kept(kept))

    def do_POST(self) -> None:
        if (request := self._begin()) is None:
            return
        path, query, _ = request
        if "uploads" in query:
            name = f"upload-{len(self.odd.requests)}"
            self.odd.parts[name] = {}
            answer = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            return self._answer(200, answer.encode())
        parts = [data for _, data in sorted(self.odd.parts.pop(query["uploadId"][0]).items())]
        self.odd.objects[path] = b"".join(parts)
        digest = hashlib.md5(b"".join(hashlib.md5(data).digest() for data in parts)).hexdigest()
        tag = f'"{digest}-{len(parts)}"' if self.odd.etag is md5 else self.odd.etag(self.odd.objects[path])
        xml = "" if tag is None else f"<ETag>{tag}</ETag>".replace('"', "&quot;")
        return self._answer(200, f"<CompleteMultipartUploadResult>{xml}</CompleteMultipartUploadResult>".encode())

    def do_GET(self) -> None:
        if (request := self._begin()) is None:
            return
        path, query, _ = request
        if "list-type" in query:
            return self._answer(200, self._listing(path, query).encode())
        if path not in self.odd.objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = self.odd.objects[path]
        if self.headers.get("Range") == "bytes=0-0" and not data:
            return self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        if self.odd.ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            return self._part(data, int(asked[1]), int(asked[2]))
        return self._answer(200, data, headers=self._kept(data))

    def _part(self, data: bytes, first: int, last: int) -> None:
        if first >= len(data):
            return self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        part = data[first : last + 1]
        place = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
        return self._answer(206, part, headers=self._kept(data) | place)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        if (request := self._begin()) is None:
            return
        path, query, _ = request
        if "uploadId" in query:
            self.odd.parts.pop(query["uploadId"][0], None)
        else:
            self.odd.objects.pop(path, None)
        self._answer(204)

    def _listing(self, bucket: str, query: dict[str, list[str]]) -> str:
        root, prefix = bucket.rstrip("/") + "/", query["prefix"][0]
        keys = [path.removeprefix(root) for path in sorted(self.odd.objects) if path.startswith(root + prefix)]
        if "delimiter" in query:  # a folder stands for all keys in it
            names = [key.removeprefix(prefix).partition("/") for key in keys]
            keys = sorted({f"{prefix}{name}{slash}" for name, slash, _ in names})
        begin = int(query.get("continuation-token", ["0"])[0])
        end = begin + self.odd.page
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < len(keys) else ""
        contents = "".join(self._listed(root, key) for key in keys[begin:end])
        truncated = str(bool(more)).lower()
        return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"

    def _listed(self, root: str, key: str) -> str:
        if key.endswith("/") and root + key not in self.odd.objects:
            return f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
        return f"<Contents><Key>{escape(key)}</Key><Size>{len(self.odd.objects[root + key])}</Size></Contents>"
