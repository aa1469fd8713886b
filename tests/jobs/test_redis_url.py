"""The Redis URL: refused with a sentence at start-up, and never without verifying the certificate by accident."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import redis

from jobs.errors import SettingsError
from jobs.redis_errors import why_unavailable
from jobs.redis_url import tls_options
from jobs.settings import load_settings


def test_rediss_verifies_certificate_and_name_unless_the_url_says_otherwise() -> None:
    assert load_settings(redis_url="rediss://h").redis_url == "rediss://h?ssl_check_hostname=true"
    assert load_settings(redis_url="rediss://h/1?db=2").redis_url == "rediss://h/1?db=2&ssl_check_hostname=true"
    for url in ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_check_hostname=false", "redis://h", "unix:///s?db=1"):
        assert load_settings(redis_url=url).redis_url == url


def test_the_urls_tls_options_are_the_workers_too(tmp_path: Path) -> None:
    assert tls_options("redis://h") is None
    assert tls_options("rediss://h") == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert tls_options("rediss://h?ssl_cert_reqs=none") == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    options = tls_options(f"rediss://h?db=3&ssl_ca_certs={tmp_path}/ca.pem&ssl_check_hostname=true")
    assert options == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": f"{tmp_path}/ca.pem",
    }


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://:hunter2@h", "does not begin with"),
        ("redis://:hun/ter2@h:x", "not a usable URL"),
        ("redis://:hunter2@h?ssl_ca_certs=/ca.pem", "need rediss://"),
        ("rediss://:hunter2@h?ssl_ca_certs=/no/ca.pem", "ssl_ca_certs names /no/ca.pem, and there is no such file"),
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings(redis_url=url)
    assert str(caught.value).startswith("RENDER_REDIS_URL: ")
    assert "hun" not in str(caught.value)


def test_each_reason_not_to_answer_has_its_sentence() -> None:
    wrong = ssl.SSLCertVerificationError()
    wrong.verify_message = "self-signed certificate"
    refused = redis.ConnectionError("Error 1 connecting")
    refused.__cause__ = wrong
    no_tls = redis.ConnectionError("x")
    no_tls.__context__ = ssl.SSLError("wrong version number")
    assert "self-signed certificate; name its authority with ssl_ca_certs" in why_unavailable(refused)
    assert "does not speak TLS" in why_unavailable(no_tls)
    assert "user or the password" in why_unavailable(redis.AuthenticationError("WRONGPASS"))
    assert "does not answer (TimeoutError)" in why_unavailable(redis.TimeoutError("x"))
