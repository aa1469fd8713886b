"""What counts as a secret: one rule for the manifest, sidecars, results, logs and people.

A secret is a password, a key, a token or a signature. In a URL it can be in three places:

- `user:password@` before the host: both are secrets. A user alone is kept if it is plain (below), because a token may
  stand in its place.
- A parameter of the query or of the fragment whose name says so (`token`, `key`, `X-Amz-Signature`), whatever its value
  is.
- Any other parameter whose value may be a token, which is any value that is not plain.

A value is plain if it has only numbers of at most 13 digits and words of at most 16 letters in one case (or with a
capital first), separated by common punctuation: `w=512`, `crop=faces,entropy`, `name=img_01.png`. Two short mixed parts
may be among them, such as `512x512`, `100px` and `q80`. `hunter2`, `a3f9c2` and `eyJhb` are not plain. Parameters
that usually name a file or a version (NAMES_OF_FILES) may also have short parts of mixed letters and digits:
`v=3f2a9c`, `file=DSC01234.JPG`.

An S3 key and the path of a file are not URLs: '?', '#' and '%' are ordinary characters there, so they have no
parameters.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

MARKS = ("…", "***")  # what stands for a secret: for people and in files, and in logs

# Names that mean a secret anywhere, also in the middle of a sentence; '_' is any separator or none.
SECRET_NAMES = (
    *("password", "passwd", "pwd", "passphrase", "secret", "token", "signature", "sig", "credential", "jwt", "hmac"),
    *("api_key", "access_key", "access_key_id", "secret_key", "private_key", "account_key", "auth_key", "shared_key"),
    *("session_key", "session_id", "key_pair_id"),
)
# Words that mean a secret within the name of a URL's parameter. In a sentence, `key=` may be about an S3 key.
SECRET_WORDS = frozenset(
    {
        *("auth", "authorization", "bearer", "cookie", "csrf", "key", "keys", "nonce", "oauth", "otp", "pass", "pin"),
        *("policy", "pw", "sas", "session", "sid", "sign", "ticket", "xsrf"),
    }
)
NAMES_OF_FILES = frozenset(
    {
        *("background", "bg", "color", "colour", "file", "filename", "fill", "id", "image", "img", "name", "path"),
        *("photo", "pic", "picture", "rev", "revision", "src", "v", "ver", "version"),
    }
)
NEVER_SECRET = frozenset({"versionid"})  # S3's, which is long and mixed

_PUNCTUATION = re.compile(r"[-_.,:;/ ~|*()!'#]+")
_NUMBER = re.compile(r"[0-9]{1,13}")
_SHORT_MIXED = re.compile(r"[0-9]{1,5}(?:x[0-9]{1,5}|[A-Za-z]{1,2})|[A-Za-z]{1,2}[0-9]{1,4}")
_SHORT_MIXED_PARTS = 2  # more of them may be a licence key
_MIXED = re.compile(r"[A-Za-z0-9]{1,24}")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LONGEST_WORD = 16
_LONGEST_VALUE = 300
_LONGEST_NAME = 64
_JOINED = tuple(name.replace("_", "") for name in SECRET_NAMES)
_LONG = tuple(name for name in _JOINED if len(name) > 5)  # shorter ones may be a part of another word


def is_secret(name: str, value: str) -> bool:
    """Whether a parameter of a URL, both sides as they stand there, holds a secret."""
    if not value or value in MARKS or name.lower() in NEVER_SECRET:
        return False
    if is_secret_name(name):
        return True
    return not is_plain(value) and not (name.lower() in NAMES_OF_FILES and _may_be_a_file(value))


def is_secret_name(name: str) -> bool:
    """Whether a parameter's name says that its value is a secret: `X-Amz-Signature`, `apiKey`, `sig`."""
    words = [word.lower() for word in _CAMEL.findall(unquote_plus(name))]
    joined = "".join(words)
    return joined.endswith(_JOINED) or any(name in joined for name in _LONG) or not SECRET_WORDS.isdisjoint(words)


def is_plain(value: str) -> bool:
    """Whether a text in a URL does not look like a token: see the top of this file."""
    text = unquote_plus(value)
    mixed = [part for part in _parts(text) if not _NUMBER.fullmatch(part) and not _is_word(part)]
    is_short = len(mixed) <= _SHORT_MIXED_PARTS and all(map(_SHORT_MIXED.fullmatch, mixed))
    return text in MARKS or (is_short and len(text) <= _LONGEST_VALUE)


def is_name(text: str) -> bool:
    """Whether what stands before '=' looks like a name, and not like a part of a token that ends with '='."""
    is_camel = len(_CAMEL.findall(text)) * 3 <= len(text)
    return len(text) <= _LONGEST_NAME and (is_camel or is_plain(text) or is_secret_name(text))


def _may_be_a_file(value: str) -> bool:
    text = unquote_plus(value)
    return len(text) <= _LONGEST_VALUE and all(_is_word(part) or _MIXED.fullmatch(part) for part in _parts(text))


def _parts(text: str) -> list[str]:
    """What stands between punctuation. Any other character stays in its part, which is not plain then."""
    return [part for part in _PUNCTUATION.split(text) if part]


def _is_word(part: str) -> bool:
    one_case = part.islower() or part.isupper() or part.istitle() or not part.isascii()
    return part.isalpha() and one_case and len(part) <= _LONGEST_WORD
