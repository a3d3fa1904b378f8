"""Make the small events file of this repository from one simulated file per process.

    python -m training.embed_events --input DIR --output data

DIR holds ``htautau.parquet``, ``ztautau.parquet``, ``ttbar.parquet`` and ``diboson.parquet``. The result has the
layout of the challenge's public data set, so every program that reads the one reads the other. Same input, same bytes.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sage.nuisances import PROCESSES
from sage.shifts import PRIMARIES
from training.dataset import DATA_FILE, LABEL_COLUMNS, LUMINOSITY, METADATA_FILE
from training.files import write_bytes, write_json

ROW_GROUP = 8192
SHUFFLE_SEED = 20240907
DESCRIPTION = (
    "Full-chain simulation: Pythia 8 and an emulation of the challenge's detector card, normalised to the challenge's "
    "expected events at 10/fb before the selection. NOT the public data set. Weights are not uniform."
)


def embed(source: Path, output: Path) -> Path:
    """Concatenate, shuffle and write the four files of ``source``.

    Args:
        source: Folder with one parquet file per process.
        output: Folder that receives the events file and its metadata.

    Returns:
        Path of the events file.
    """
    tables = [pq.read_table(source / f"{process}.parquet") for process in PROCESSES]
    table = pa.concat_tables(tables).select([*PRIMARIES, *LABEL_COLUMNS]).replace_schema_metadata(None)
    table = table.take(_order([len(part) for part in tables]))

    buffer = io.BytesIO()
    # Kinematic columns hardly repeat a value, so dictionaries would only make the file larger.
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=list(LABEL_COLUMNS))
    write_bytes(output / DATA_FILE, buffer.getvalue())
    labels = table["detailed_labels"].to_pylist()
    write_json(
        output / METADATA_FILE,
        {
            "description": DESCRIPTION,
            "total_rows": table.num_rows,
            "sum_weights": float(table["weights"].to_numpy().sum(dtype=np.float64)),
            "luminosity": LUMINOSITY,
            "columns": table.column_names,
            "detailed_labels": {process: labels.count(process) for process in PROCESSES},
        },
    )
    return output / DATA_FILE


def _order(sizes: list[int]) -> np.ndarray:
    """Return a random order of all rows in which every stretch holds the processes in equal proportion.

    In a file of two hundred million rows a plain shuffle does that by itself. In a small one it would leave each part
    of a split with its own normalisation of each process.
    """
    random_state = np.random.RandomState(SHUFFLE_SEED)
    places = [(random_state.permutation(n) + random_state.uniform(size=n)) / n for n in sizes]
    return np.argsort(np.concatenate(places), kind="stable")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, required=True, help="folder with one parquet file per process")
    parser.add_argument("--output", type=Path, default=Path("data"), help="folder for the events file")
    arguments = parser.parse_args()
    embed(arguments.input, arguments.output)


if __name__ == "__main__":
    main()
