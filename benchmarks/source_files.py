"""Write the rows that the producer is measured with, as CSV, TSV, JSON Lines or Parquet.

python -m benchmarks.source_files jobs.parquet 100000
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path


def rows_of(rows: int) -> Iterator[dict[str, object]]:
    """Rows as people have them: a prompt with commas, numbers, an empty cell, and a different path in each."""
    for row in range(rows):
        yield {
            "image": f"photos/{row // 1000:04d}/{row:07d}.png",
            "prompt": f"a painting of thing number {row}, oil on canvas, soft light",
            "n_prompt": None,
            "num_samples": 1,
            "image_resolution": 512,
            "ddim_steps": 20,
            "guess_mode": False,
            "strength": 0.9,
            "scale": 9.0,
            "seed": row,
            "eta": 0.0,
        }


def write_source(path: Path, rows: int) -> None:
    """Write rows in the form that the file's ending says. A Parquet file is one row group, as pandas writes it."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(list(rows_of(rows)))
        pyarrow.parquet.write_table(table, path, row_group_size=max(rows, 1))
        return
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows_of(rows))
            return
        writer = csv.DictWriter(file, next(rows_of(1)), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for row in rows_of(rows):
            writer.writerow(row | {"guess_mode": "false"})


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description="Write a file of rows; its ending says the form.")
    parser.add_argument("path", type=Path)
    parser.add_argument("rows", type=int)
    arguments = parser.parse_args()
    write_source(arguments.path, arguments.rows)


if __name__ == "__main__":
    main()
