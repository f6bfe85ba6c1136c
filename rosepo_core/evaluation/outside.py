"""Rows of a table from outside: the scores that another recommender gave to the candidates of a run.

They rank what the models of the run ranked: the candidates of the test users, or of the validation users if the run
is evaluated on these alone. They have no row in other tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rosepo_core import ranks
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Candidates, Examples, Floats, Ints, Longs, Places, Split
from rosepo_core.contracts.sections import SCORES, HeldOut, Negatives
from rosepo_core.data.score_tables import ScoreTable, read_scores
from rosepo_core.evaluation.candidates import protocol_name
from rosepo_core.evaluation.context import parts
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.run_models import RUN_MODELS
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.split import held_out_examples
from rosepo_core.stages.trained import DrawnCandidates
from rosepo_core.store.artifacts import content_sums, read_manifest

PREFIX = "outside-"
"""The beginning of the names of these artifacts."""

TABLE = "scores.parquet"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
RESERVED = ("-validation", "-popularity", "-semantic")
"""Ends of the names of artifacts for other parts and negatives."""


def named_files(written: Sequence[str]) -> dict[str, Path]:
    """The files of scores by the names of their rows.

    Args:
        written: each ``NAME=FILE``, or a file, whose own name without its end is then the row's.

    Raises:
        RequestError: a name is impossible, or there twice.
    """
    found: dict[str, Path] = {}
    for each in written:
        name, sign, rest = each.partition("=")
        file = Path(rest if sign and not Path(each).exists() else each)
        name = name if file != Path(each) else file.name.partition(".")[0]
        if not NAME.fullmatch(name) or name in (*RUN_MODELS, *SCORES) or name.endswith(RESERVED):
            raise RequestError(
                f"'{name}' cannot name a row of the table: use letters, digits, '-', '_' and '.', no model or "
                f"score of the run, and none of {', '.join(RESERVED)} at the end; name it with --scores NAME={file}"
            )
        if name in found:
            raise RequestError(f"{found[name]} and {file} are both named '{name}': name one, --scores NAME={file}")
        found[name] = file
    return found


def ranked_models(
    session: Session, split: Handle[Split], to_rank: DrawnCandidates, files: Mapping[str, Path]
) -> list[RankedModel]:
    """The rows from outside that a run has, and new ones, RUN/outside-NAME.

    Args:
        session: the run.
        split: RUN/split.
        to_rank: the candidates, by part and kind of negatives.
        files: new scores, by the names of their rows.

    Raises:
        RequestError: a file cannot be read, names users or items that are not in the log, or lacks a score; or the
            run has other scores of this name.
    """
    handles = {name: _added(session, split, to_rank, name, file) for name, file in files.items()}
    for folder in sorted(session.store.folder.glob(f"{PREFIX}*")):
        name, manifest = folder.name.removeprefix(PREFIX), read_manifest(folder)
        # Scores by the users and items of another split are of no use.
        if name not in handles and manifest and manifest["inputs"].get("split") == split.artifact.fingerprint:
            handles[name] = Handle(session.store.artifact(folder.name), pl.read_parquet)
    return [_ranked(name, handle, split.content) for name, handle in sorted(handles.items())]


def _added(
    session: Session, split: Handle[Split], to_rank: DrawnCandidates, name: str, file: Path
) -> Handle[pl.DataFrame]:
    stage = PREFIX + name

    def content() -> str:
        sums = content_sums(file)
        if not sums:
            raise RequestError(f"{file} does not exist: name a file of scores")
        return next(iter(sums.values()))

    settings = {"sha256": ranks.told_by_first(f"reading {file}", content)}
    standing = read_manifest(session.store.folder / stage)
    if standing and standing["fingerprint"] != session.fingerprint(stage, settings, [split]):
        raise RequestError(
            f"{session.store.folder} has the row '{name}' from other scores: name this one otherwise, "
            f"--scores NEW={file}"
        )

    def build(folder: Path) -> None:
        table = read_scores(file, split.content.users, split.content.catalogue.ids)
        _check_ids(table, split.content)
        keys, rows = table.pairs(len(split.content.catalogue))
        _check_complete(session, split.content, to_rank, keys, file)
        scores = pl.Series(table.score[rows].astype(np.float32))
        frame = pl.DataFrame({"user": table.user_ids[rows], "item": table.item_ids[rows], "score": scores})
        frame.write_parquet(folder / TABLE)

    return session.artifact(stage, settings, [split], build, pl.read_parquet)


def _check_ids(table: ScoreTable, split: Split) -> None:
    for what, numbers, ids, known in (
        ("user", table.user, table.user_ids, split.users),
        ("item", table.item, table.item_ids, split.catalogue.ids),
    ):
        unknown = np.flatnonzero(numbers < 0)
        if len(unknown):
            row = int(unknown[0])
            raise RequestError(
                f"{table.file} row {table.number(row)}: the {what} '{ids[row]}' is not in the run's log"
                f"{nearest(ids[row], known)}; it is the first of {len(unknown):,} such rows: write the log's own "
                "ids, or take them out"
            )


def _check_complete(session: Session, split: Split, to_rank: DrawnCandidates, keys: Longs, file: Path) -> None:
    """Check that there are scores for all candidates of at least one protocol."""
    part = parts(session.config.evaluation)[0]
    kinds = session.config.evaluation.negatives if "candidates" in session.config.evaluation.protocols else ()
    examples = held_out_examples(session, split, part)
    lacking = [_lacking(split, examples, part, kind, to_rank, keys) for kind in kinds]
    if not lacking:
        raise RequestError(
            "the run ranks no candidates, for which outside scores could be: add --protocol candidates"
        )
    if all(lacking):
        raise RequestError(
            f"{file} {lacking[0]}: add them; `rosepo export {session.store.folder} --scores FILE` shows all that are "
            "needed"
        )
    for each in filter(None, lacking):
        session.reporter.note(f"{file} {each}, and has no row there")


def _lacking(
    split: Split, examples: Examples, part: HeldOut, kind: Negatives, to_rank: DrawnCandidates, keys: Longs
) -> str:
    """What lacks for one protocol; empty if nothing does."""
    candidates: Candidates = to_rank[part, kind].content
    offered = candidates.items >= 0
    found = _places(keys, _keys(examples, np.maximum(candidates.items, 0), len(split.catalogue)))
    missing = (found < 0) & offered
    if not missing.any():
        return ""
    row, column = np.argwhere(missing)[0]
    user, item = split.users[examples.user[row]], split.catalogue.ids[candidates.items[row, column]]
    users = int(missing.any(axis=1).sum())
    return (
        f"lacks {int(missing.sum()):,} of {int(offered.sum()):,} scores for {users:,} users under "
        f"{protocol_name(candidates, kind)}, e.g. of the user '{user}' for the item '{item}'"
    )


def _ranked(name: str, handle: Handle[pl.DataFrame], split: Split) -> RankedModel:
    def score(places: Places, items: Ints) -> Floats | None:
        table = read_scores(handle.folder / TABLE, split.users, split.catalogue.ids)
        keys, rows = table.pairs(len(split.catalogue))
        found = _places(keys, _keys(places, items, len(split.catalogue)))
        return None if (found < 0).any() else table.score[rows[found]].astype(np.float32)

    return RankedModel(name, score, inputs=[handle], outside=True)


def _keys(places: Places, items: Ints, count: int) -> Longs:
    return places.user.astype(np.int64)[:, None] * count + items


def _places(keys: Longs, wanted: Longs) -> Longs:
    """The places of `wanted` in `keys`, which ascend; -1 for what is not there."""
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[found] == wanted, found, -1)
