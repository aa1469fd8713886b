"""Two sets' pictures compared by all measures: PSNR, SSIM, FLIP and PD, and a sheet of those that differ most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.check.contact_sheet import Row, check_sheet, write_sheet
from engines.check.inception import Inception, perceptual_distance
from engines.check.perception import flip, has_flip, ssim
from engines.check.score import Distance, ScoreRequest, distance, rendered_by_both
from engines.sampler.subjects import edges_for, shapes_for

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """One seed's two pictures. `flip` is None where its package is missing, `pd` where no weights were given."""

    seed: int
    distance: Distance
    ssim: float
    flip: float | None
    pd: float | None

    @property
    def psnr_db(self) -> float:
        """In dB; infinite for equal pictures."""
        return self.distance.psnr_db

    def to_json(self) -> dict[str, object]:
        """For JSON, where null stands for an infinite PSNR, and for a measure that was not taken."""
        return {
            "seed": self.seed,
            **self.distance.to_json(),
            "ssim": round(self.ssim, 6),
            "flip": None if self.flip is None else round(self.flip, 6),
            "pd": None if self.pd is None else round(self.pd, 4),
        }

    @property
    def caption(self) -> str:
        """One line of ASCII for the sheet."""
        words = [f"seed {self.seed}", "equal" if math.isinf(self.psnr_db) else f"PSNR {self.psnr_db:.1f} dB"]
        words.append(f"SSIM {self.ssim:.4f}")
        if self.flip is not None:
            words.append(f"FLIP {self.flip:.4f}")
        if self.pd is not None:
            words.append(f"PD {self.pd:.2f}")
        return ", ".join(words)


@dataclass(frozen=True)
class Extras:
    """What is wanted beside the numbers: a file of FID's weights, and a sheet of the `worst` pictures."""

    inception: Path | None = None
    sheet: Path | None = None
    worst: int = 4


def compare(
    path: Path, reference: Path, request: ScoreRequest, *, extras: Extras, device: str = "auto"
) -> list[Compared]:
    """Render with both sets, measure, and write the sheet.

    Raises:
        EngineSetRefused: a set does not load, was not built for this size, or the two have different weights.
        ModelRefused: the file of weights is of another network.
        DiskRefused: the sheet cannot be written; its name and its size are looked at before anything is rendered.
    """
    if extras.sheet is not None:
        rows, size = min(extras.worst, request.samples), (request.height, request.width)
        check_sheet(extras.sheet, rows=rows, size=size)
    network = None
    if extras.inception is not None:  # before minutes of rendering
        network = Inception.load(extras.inception)
    pairs = rendered_by_both(path, reference, request, device=device)
    compared = [_compared(seed, pair, network) for seed, pair in enumerate(pairs)]
    if extras.sheet is not None:
        write_sheet(extras.sheet, _rows(compared, pairs, extras.worst))
    return compared


def _compared(seed: int, pair: Pair, network: Inception | None) -> Compared:
    pd = None if network is None else perceptual_distance(*map(network.features, pair))
    return Compared(seed, distance(*pair), ssim(*pair), flip(*pair) if has_flip() else None, pd)


def _rows(compared: Sequence[Compared], pairs: Sequence[Pair], worst: int) -> list[Row]:
    """The pictures of the lowest PSNR first."""
    rows = []
    for each in sorted(compared, key=lambda each: (each.psnr_db, each.seed))[:worst]:
        one, other = pairs[each.seed]
        height, width = one.shape[:2]
        rows.append(
            Row(each.caption, (shapes_for(height, width, each.seed), edges_for(height, width, each.seed), one, other))
        )
    return rows
