"""The run folder: artifacts that appear whole or not at all, found again by fingerprint.

A stage writes into a staging folder; its files are fsynced, a manifest with their SHA-256 sums is written last, and
one rename puts the folder in its place. A fingerprint covers everything that the stage depends on. An artifact with
the wanted fingerprint is reused from the run itself or from any run folder beside it, by hard links, so that every
run folder stays complete in itself.

RUN/config.toml describes the artifacts of RUN at any time. What would replace an artifact, or was made under another
configuration, is a change: it is put in place as one when it is complete.
"""

from rosepo_core.store.artifacts import Artifact, check_artifact, content_sums, fingerprint, read_manifest
from rosepo_core.store.changes import CONFIG, UNFINISHED
from rosepo_core.store.files import write_text
from rosepo_core.store.run_store import MARKER, RunStore, is_run

__all__ = [
    "CONFIG",
    "MARKER",
    "UNFINISHED",
    "Artifact",
    "RunStore",
    "check_artifact",
    "content_sums",
    "fingerprint",
    "is_run",
    "read_manifest",
    "write_text",
]
