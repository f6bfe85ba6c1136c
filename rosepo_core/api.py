"""All that a plugin may import."""

from rosepo_core.contracts import (
    Dataset,
    DatasetOptions,
    LanguageModel,
    OracleContext,
    PreferenceLoss,
    RejectedSampler,
    Reporter,
    SamplerContext,
    SamplerOptions,
    SmoothingOracle,
)
from rosepo_core.errors import PluginError, RequestError, RosepoError, nearest
from rosepo_core.hookspecs import Register, hookimpl
from rosepo_core.options import Options
from rosepo_core.packages import cache_folder, fetch_wheel
from rosepo_core.records import (
    Bools,
    Candidates,
    Catalogue,
    Corpus,
    Examples,
    Floats,
    Ints,
    LogProbs,
    Longs,
    SeenItems,
    Sequences,
    Split,
)

__all__ = [
    "Bools",
    "Candidates",
    "Catalogue",
    "Corpus",
    "Dataset",
    "DatasetOptions",
    "Examples",
    "Floats",
    "Ints",
    "LanguageModel",
    "LogProbs",
    "Longs",
    "Options",
    "OracleContext",
    "PluginError",
    "PreferenceLoss",
    "Register",
    "RejectedSampler",
    "Reporter",
    "RequestError",
    "RosepoError",
    "SamplerContext",
    "SamplerOptions",
    "SeenItems",
    "Sequences",
    "SmoothingOracle",
    "Split",
    "cache_folder",
    "fetch_wheel",
    "hookimpl",
    "nearest",
]
