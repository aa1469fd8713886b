"""What a row is warned of stands in its sidecar, in `producer results` and in the gallery."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from jobs.job import RenderResult
from tests import forked
from tests.integration.conftest import REAL, Site
from tests.integration.test_bad_input import encoded, photograph
from tests.sixteen_bit_files import png16

ROWS = """image,prompt,n_prompt
good.png,a cat (sitting),
flat.png,a cat,<empty>
twelve.png,a cat,
good.png,(cat:1.3) <lora:x>,None
good.png,<empty>,
"""

# Row -> how its warnings begin.
WARNINGS = {
    1: [],
    2: ["no edges were found at low_threshold 100 and high_threshold 200"],
    3: ["16 bits a channel were reduced to 8 as those of a 12-bit picture"],
    4: [
        "prompt has prompt weights such as",
        "prompt has extra networks such as",
        "n_prompt has values such as",
    ],
    5: [],
}


def twelve_bits() -> bytes:
    values = np.round(np.asarray(photograph("L")).astype(float) / 255 * 4095).astype(np.uint16)
    return png16(values[:, :, None])


def producer(site: Site, *arguments: str) -> str:
    variables = {"RENDER_REDIS_URL": site.redis_url, "RENDER_RECONCILE_SECONDS": "1"}
    done = forked.run("producer", *arguments, environment=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_expected(result: RenderResult) -> bool:
    expected = WARNINGS[result.row]
    return len(result.warnings) == len(expected) and all(map(str.startswith, result.warnings, expected))


def test_warnings_stand_in_sidecars_results_and_gallery(site: Site) -> None:
    out, gallery = site.folder / "out", site.folder / "gallery"
    for name, data in {"good.png": encoded(photograph(), "PNG"), "twelve.png": twelve_bits()}.items():
        (site.folder / name).write_bytes(data)
    (site.folder / "flat.png").write_bytes(encoded(photograph("L").point(lambda _: 90), "PNG"))
    csv = site.folder / "jobs.csv"
    csv.write_text(ROWS)
    site.start(REAL, engine_dir="fake:", lease_seconds=10)
    producer(site, "submit", str(csv), "--batch", "b", "--output", str(out), "--wait")
    sidecars = [RenderResult.model_validate_json(path.read_text()) for path in Path(out, "b").glob("*.json")]
    lines = [RenderResult.model_validate(json.loads(line)) for line in producer(site, "results", "b").splitlines()]
    assert sorted(one.row for one in sidecars) == [one.row for one in lines] == [1, 2, 3, 4, 5]
    assert [one for one in [*sidecars, *lines] if not as_expected(one)] == []
    producer(site, "gallery", "b", "--out", str(gallery))
    page = (gallery / "index.html").read_text()
    assert page.count("<li>") == sum(map(len, WARNINGS.values()))
    assert "such as &#39;(cat:1.3)&#39;, which are taken literally" in page
    assert page.count("(empty)</p>") == 1
    assert page.count("<dd>(empty)</dd>") == 1
