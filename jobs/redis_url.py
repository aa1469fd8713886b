"""The Redis URL, checked before a client connects."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

SCHEMES = ("redis", "rediss", "unix")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
VERIFIED = "ssl_check_hostname=true"


def checked_url(url: str) -> str:
    """The URL, completed so that a rediss:// server's name is verified: redis-py before 6 checks only the certificate.

    Raises:
        ValueError: the URL is not usable. The sentence leaves the URL out, because it may hold a password.
    """
    parts = _parts(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "rediss":
        if any(name.startswith("ssl_") for name in options):
            raise ValueError("options that begin with ssl_ need rediss://, not " + f"{parts.scheme}://")
        return url
    for name in FILES:
        if name in options and not Path(options[name]).is_file():
            raise ValueError(f"{name} names {options[name]}, and there is no such file")
    if "ssl_check_hostname" in options or "ssl_cert_reqs" in options:
        return url
    return f"{url}&{VERIFIED}" if parts.query else f"{url}?{VERIFIED}"


def tls_options(url: str) -> dict[str, Any] | None:
    """The TLS options of a rediss:// URL, by the names that redis-py's SSLConnection takes; None for other schemes."""
    parts = _parts(url)
    if parts.scheme != "rediss":
        return None
    options: dict[str, Any] = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    options.setdefault("ssl_cert_reqs", "required")
    options["ssl_check_hostname"] = options.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
    if options["ssl_cert_reqs"] == "none":
        options["ssl_check_hostname"] = False  # a name is checked only on a verified certificate
    return options


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("not a usable URL; special characters in a password are written as %XX") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("does not begin with redis://, rediss:// or unix://")
    return parts
