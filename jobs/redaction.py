"""URIs and texts as they may be shown and kept: each secret is replaced, and the rest stays as it was written.

jobs/secrets.py says what a secret is.
"""

from __future__ import annotations

import re

from jobs.secrets import MARKS, SECRET_NAMES, is_name, is_plain, is_secret

SHOWN, LOGGED = MARKS

_URI = re.compile(r"([A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]?|[^:]*)(?::(.*))?", re.DOTALL)
_PATH_QUERY_FRAGMENT = re.compile(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_BETWEEN = re.compile("([&;])")
# The parameters of a signed URL are secrets wherever they are: no other text has them.
_SIGNED = re.compile(r"(?i)(x-(?:amz|goog)-(?:signature|credential|security-token)=)(?!…|\*)[^&\s\"'<>]+")

# In texts. A lookbehind makes a pattern begin where a word begins: otherwise long words would take quadratic time.
_URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+://[^\s\"<>\\]+")
_REQUEST = re.compile(r"\b(GET |HEAD |PUT |POST |DELETE )(/[^\s\"<>]*)")  # as HTTP libraries and servers log it
_BEHIND_URL = "'),.:;!]}`"  # what ends a quotation or a sentence, and not the URL in it
_USER = re.compile(r"(?<=://)[^/\s\"<>]*@")
_KNOWN = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\beyJ[\w-]{8,}(?:\.[\w-]+){0,2}")  # key ids, web tokens
_SCHEME = r"basic|bearer|negotiate|ntlm|token|apikey|oauth|hawk|key|aws4[\w-]*|sharedkey[\w-]*"
_AUTHORIZATION = re.compile(
    r"(?i)(\bauthorization\\?[\"']?\s*[=:]\s*(?:b?\\?[\"'])?)"
    rf"(digest\s[^\r\n]*|(?:{_SCHEME})\s[^\"'\r\n\\]*|[^\s\"'\\]+)"
)
_COOKIE = re.compile(r"(?i)(\bcookie\\?[\"']?\s*[=:]\s*(?:b?\\?[\"'])?)([^=\s\"';]{1,100}=[^\"'\r\n\\]*)")
_BEARER = re.compile(r"(?i)\b((?:bearer|basic)\s+)([A-Za-z0-9._~+/-]{8,}=*)")
_NAMES = "|".join(SECRET_NAMES).replace("_", "[_-]?")
_OPTION = re.compile(rf"(?i)(?<!\S)(--[\w-]*(?:{_NAMES})\s+)([^\s\"']+)")
_NAMED = re.compile(
    rf"(?i)(?<![\w.-])(?P<name>[\w.-]*?(?:{_NAMES}))"
    r"(?P<close>\\?[\"']?)(?P<sep>\s*[=:]\s*)(?P<open>b?\\?[\"'])?"
)
_QUOTED = {'\\"': re.compile(r'[^"\\]*'), '"': re.compile(r'(?:[^"\\]|\\.)*'), "'": re.compile(r"(?:[^'\\]|\\.)*")}
_BARE = re.compile(r"[^\s&\"']*[^\s&\"'),;\]}]|")
_NOTHING = frozenset({"", "None", "null", "True", "False", "true", "false", *MARKS})
_WORD_IN_SENTENCE = re.compile(r"[A-Za-z]+[,.;:!?]*[ \t]+\S")


def redacted(uri: str, mark: str = SHOWN) -> str:
    """The URI with a mark in place of each secret; all else, and a text that is not a URI, stays as it is."""
    match = _URI.fullmatch(uri)
    if match is None or match[1].lower() == "file":
        return uri
    scheme, rest = match[1], match[2]
    if scheme.lower() == "s3":
        bucket, slash, key = rest.partition("/")
        return f"{scheme}://{_authority(bucket, mark)}{slash}{_unsigned(key, mark)}"
    end = _end_of_authority(rest)
    return f"{scheme}://{_authority(rest[:end], mark)}{_target(rest[end:], mark)}"


def with_redacted_urls(text: str) -> str:
    """A text as people wrote it, with a mark in place of each secret of the URLs in it."""
    return _URL.sub(lambda match: _url_in_text(match[0], SHOWN), text) if "://" in text else text


def without_secrets(text: str) -> str:
    """The text with *** in place of everything that looks like a secret; paths and sentences stay as they are.

    Surrogates (of a file name that is not UTF-8) become '?', because JSON cannot hold them.
    """
    text = text if text.isascii() else text.encode("utf-8", "replace").decode()
    # A backslash in a password ends the URL for the next line, because in JSON it is not part of a URL.
    text = _USER.sub(lambda match: f"{LOGGED}@" if "\\" in match[0] else match[0], text)
    text = _URL.sub(lambda match: _url_in_text(match[0], LOGGED), text)
    text = _REQUEST.sub(lambda match: match[1] + _target(match[2], LOGGED), text)
    text = _KNOWN.sub(LOGGED, _unsigned(text, LOGGED))
    text = _AUTHORIZATION.sub(_header, text)
    text = _COOKIE.sub(_header, text)
    text = _OPTION.sub(_header, text)
    text = _BEARER.sub(lambda match: match[0] if is_plain(match[2]) else match[1] + LOGGED, text)
    return _without_named(text)


def _unsigned(text: str, mark: str) -> str:
    return _SIGNED.sub(rf"\g<1>{mark}", text)


def _end_of_authority(rest: str) -> int:
    """Where the host and its port end. A password with an unquoted '/', '?' or '#' in it belongs to what is before."""
    end = _first(rest, "/?#", 0)
    host, port = _host_and_port(rest[:end].rpartition("@")[2])
    if "@" in rest[end:] and (not host or not (port or "0").isdecimal()):
        return _first(rest, "/?#", rest.rindex("@"))
    return end


def _first(text: str, characters: str, start: int) -> int:
    places = [place for char in characters if (place := text.find(char, start)) >= 0]
    return min(places, default=len(text))


def _host_and_port(text: str) -> tuple[str, str | None]:
    match = _HOST_AND_PORT.fullmatch(text)
    return (match[1], match[2]) if match else (text, None)


def _authority(text: str, mark: str) -> str:
    user, at, host_and_port = text.rpartition("@")
    host, port = _host_and_port(host_and_port)
    if port and not port.isdecimal():
        host_and_port = f"{host}:{mark}"  # this may be a password whose '@' is missing
    name, _, password = user.partition(":")
    kept = user if not password and is_plain(name) else mark
    return f"{kept}{at}{host_and_port}" if at else host_and_port


def _target(text: str, mark: str) -> str:
    """Path, query and fragment."""
    match = _PATH_QUERY_FRAGMENT.fullmatch(text)
    assert match is not None, "every text matches"
    query = "" if match[2] is None else "?" + _parameters(match[2], mark)
    fragment = "" if match[3] is None else "#" + _parameters(match[3], mark)
    return match[1] + query + fragment


def _parameters(text: str, mark: str) -> str:
    return "".join(part if part in "&;" else _parameter(part, mark) for part in _BETWEEN.split(text))


def _parameter(text: str, mark: str) -> str:
    name, equals, value = text.partition("=")
    if not equals:
        return text if is_plain(text) else mark
    if not is_name(name):
        return mark
    return f"{name}={mark}" if is_secret(name, value) else text


def _url_in_text(url: str, mark: str) -> str:
    end = len(url.rstrip(_BEHIND_URL))
    return redacted(url[:end], mark) + url[end:]


def _header(match: re.Match[str]) -> str:
    return match[0] if _is_sentence(match.string, match.start(2)) and " " not in match[2] else match[1] + LOGGED


def _is_sentence(text: str, start: int) -> bool:
    """Whether an ordinary word with more behind it stands there: `denied by the server`."""
    return _WORD_IN_SENTENCE.match(text, start) is not None


def _without_named(text: str) -> str:
    """Replace what follows `password=`, `"token":` and the like."""
    parts, through = [], 0
    for match in _NAMED.finditer(text):
        if match.start() < through or _is_kept(match):
            continue  # within a value, or no secret
        quote = (match["open"] or "").lstrip("b")
        value = (_QUOTED[quote.replace("\\'", "'")] if quote else _BARE).match(text, match.end())
        end = value.end() if value else match.end()
        if text[match.end() : end] in _NOTHING:
            continue
        parts += [text[through : match.end()], LOGGED]
        through = end
    return "".join((*parts, text[through:]))


def _is_kept(match: re.Match[str]) -> bool:
    """Whether what follows a name is not a secret, but belongs to a path or describes a thing of that name.

    It does not look for the end of what follows: many such names would take quadratic time.
    """
    if "=" in match["sep"]:
        return False
    is_path = match.string[max(0, match.start() - 1) : match.start()] == "/"
    if is_path or match["open"]:
        return is_path
    return "-" not in match["name"] and _is_sentence(match.string, match.end())
