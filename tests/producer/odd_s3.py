"""A small S3 server of our own, whose keys may lack a right: then it answers 403, as S3 does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


@dataclass
class Bucket:
    """What is stored, by path, and what the keys may do. `refused` lists the requests that were answered 403."""

    objects: dict[str, bytes] = field(default_factory=dict)
    may_list: bool = True
    may_get: bool = True
    may_put: bool = True
    is_away: bool = False
    hidden: Callable[[str], bool] = lambda path: False  # paths that may not be read
    refused: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    bucket: ClassVar[Bucket]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if "list-type" in parse_qs(parts.query):
            self._list(parse_qs(parts.query))
            return
        data = self.bucket.objects.get(unquote(parts.path))
        if not self.bucket.may_get or self.bucket.hidden(parts.path) or (data is None and not self.bucket.may_list):
            self._answer(403, DENIED)
        elif data is None:
            self._answer(404, MISSING)
        else:
            self._answer(200, data)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.bucket.may_put:
            self.bucket.objects[unquote(urlsplit(self.path).path)] = data
        self._answer(200 if self.bucket.may_put else 403, b"" if self.bucket.may_put else DENIED)

    def _list(self, query: dict[str, list[str]]) -> None:
        if not self.bucket.may_list:
            self._answer(403, DENIED)
            return
        prefix = query.get("prefix", [""])[0]
        keys = [path.split("/", 2)[2] for path in self.bucket.objects]
        below = [key for key in keys if key.startswith(prefix)]
        files = sorted(key for key in below if "/" not in key.removeprefix(prefix))
        folders = sorted({prefix + key.removeprefix(prefix).split("/")[0] + "/" for key in set(below) - set(files)})
        contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in files)
        common = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"
        self._answer(200, body.encode())

    def _answer(self, status: int, body: bytes) -> None:
        if self.bucket.is_away:
            status, body = 503, b""
        if status == 403:
            self.bucket.refused.append(f"{self.command} {self.path}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def odd_s3() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """The bucket, and the environment that boto3 finds it with."""
    bucket = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OddHandler", (Handler,), {"bucket": bucket}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield (
            bucket,
            {
                "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            },
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
