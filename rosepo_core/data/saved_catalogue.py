"""Saves and loads a catalogue as one table, so that a model can recommend without the run that trained it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue

CATALOGUE_FILE = "catalogue.parquet"
INTERACTIONS = "training.interactions"
"""The column with an item's popularity. Attributes of a log have no such name."""


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Write `CATALOGUE_FILE`, one row for each item: ``item`` (the log's own id), ``title``,
    ``training.interactions``, and the attributes."""
    names = pl.DataFrame(
        {"item": catalogue.ids, "title": catalogue.titles, INTERACTIONS: catalogue.popularity},
        schema={"item": pl.String, "title": pl.String, INTERACTIONS: pl.Int64},
    )
    attributes = catalogue.attributes.drop(INTERACTIONS, strict=False)
    pl.concat([names, attributes], how="horizontal").write_parquet(folder / CATALOGUE_FILE)


def load_catalogue(folder: Path) -> Catalogue:
    """The catalogue that `save_catalogue` wrote.

    Raises:
        RequestError: the file is missing, or is no such table.
    """
    path = folder / CATALOGUE_FILE
    try:
        table = pl.read_parquet(path)
        return Catalogue(
            ids=tuple(table["item"]),
            titles=tuple(table["title"]),
            popularity=table[INTERACTIONS].to_numpy(),
            attributes=table.drop("item", "title", INTERACTIONS),
        )
    except FileNotFoundError:
        raise RequestError(
            f"{folder} has no {CATALOGUE_FILE}, which recommending needs: name the run, or `rosepo export` it"
        ) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        cause = str(error).splitlines()[0]
        raise RequestError(f"{path} cannot be read ({cause}); copy the folder again") from None
