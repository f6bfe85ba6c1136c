"""Everything that a plugin may import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rosepo_core.contracts.components import (
    Component,
    CutOffMetric,
    CutOffOptions,
    Dataset,
    DatasetOptions,
    LanguageModel,
    LogOptions,
    Metric,
    OracleContext,
    PreferenceLoss,
    RejectedSampler,
    Reporter,
    SamplerContext,
    SamplerOptions,
    SmoothingOracle,
)
from rosepo_core.contracts.errors import PluginError, RequestError, RosepoError, beyond_python, nearest
from rosepo_core.contracts.hookspecs import Register, hookimpl
from rosepo_core.contracts.options import CHANGES_NO_RESULT, Options
from rosepo_core.contracts.outcome import Measure, Outcome
from rosepo_core.contracts.paths import expanded
from rosepo_core.contracts.ranking import HEAD_SHARE, UNRANKED, Ranks, head_items
from rosepo_core.contracts.records import (
    Bools,
    Candidates,
    Catalogue,
    Corpus,
    Doubles,
    Examples,
    Floats,
    Ints,
    LogProbs,
    Longs,
    Part,
    Places,
    SeenItems,
    Sequences,
    Split,
)
from rosepo_core.packages import cache_folder, fetch_wheel
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.prompts.list_template import ListTemplate
from rosepo_core.prompts.template import PromptGroup, PromptOptions, PromptTemplate
from rosepo_core.prompts.token_ids import Ragged, leading_ids, newline_id, plain_ids

if TYPE_CHECKING:
    from rosepo_core.data.dialects import Dialect
    from rosepo_core.data.frames import Frame
    from rosepo_core.data.ids import coded, repeated_pairs
    from rosepo_core.data.numbers import read_numbers
    from rosepo_core.data.score_tables import ScoreTable, read_scores
    from rosepo_core.data.table_files import TableContent, read_table, table_files
    from rosepo_core.data.times import YEAR_1, formats_for, read_times
    from rosepo_core.downloads import downloaded

__all__ = [
    "CHANGES_NO_RESULT",
    "HEAD_SHARE",
    "UNRANKED",
    "YEAR_1",
    "Bools",
    "Candidates",
    "Catalogue",
    "Component",
    "Corpus",
    "CutOffMetric",
    "CutOffOptions",
    "Dataset",
    "DatasetOptions",
    "Dialect",
    "Doubles",
    "Examples",
    "Floats",
    "Frame",
    "Ints",
    "LanguageModel",
    "ListTemplate",
    "LogOptions",
    "LogProbs",
    "Longs",
    "Measure",
    "Metric",
    "Options",
    "OracleContext",
    "Outcome",
    "Part",
    "Places",
    "PluginError",
    "PreferenceLoss",
    "PromptGroup",
    "PromptOptions",
    "PromptTemplate",
    "Ragged",
    "Ranks",
    "Register",
    "RejectedSampler",
    "Reporter",
    "RequestError",
    "RosepoError",
    "SamplerContext",
    "SamplerOptions",
    "ScoreTable",
    "SeenItems",
    "Sequences",
    "SmoothingOracle",
    "Split",
    "TableContent",
    "beyond_python",
    "cache_folder",
    "coded",
    "downloaded",
    "expanded",
    "fetch_wheel",
    "formats_for",
    "head_items",
    "hookimpl",
    "leading_ids",
    "load_plugins",
    "nearest",
    "newline_id",
    "plain_ids",
    "read_numbers",
    "read_scores",
    "read_table",
    "read_times",
    "repeated_pairs",
    "table_files",
]

# Modules that import polars are imported only when a plugin uses one of their names, so that `rosepo plugins list`
# need not wait for polars.
_LAZY = {
    "Dialect": "rosepo_core.data.dialects",
    "Frame": "rosepo_core.data.frames",
    "ScoreTable": "rosepo_core.data.score_tables",
    "TableContent": "rosepo_core.data.table_files",
    "YEAR_1": "rosepo_core.data.times",
    "coded": "rosepo_core.data.ids",
    "downloaded": "rosepo_core.downloads",
    "formats_for": "rosepo_core.data.times",
    "read_numbers": "rosepo_core.data.numbers",
    "read_scores": "rosepo_core.data.score_tables",
    "read_table": "rosepo_core.data.table_files",
    "read_times": "rosepo_core.data.times",
    "repeated_pairs": "rosepo_core.data.ids",
    "table_files": "rosepo_core.data.table_files",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
