"""The run folder: complete artifacts, found by fingerprint.

A stage writes into a staging folder. Its files are fsynced, a manifest with their SHA-256 sums is written last, and
one rename puts the folder in its place. So an artifact is complete or absent, even if the process is killed. A
fingerprint covers everything that the stage depends on. An artifact with the wanted fingerprint is reused from the
run itself or from any run folder beside it, by hard links, so that every run folder is complete on its own. What a
stage in progress has so far is kept beside its place (`partial`).

RUN/config.toml always describes the artifacts of RUN. New artifacts that replace old ones, or belong to another
configuration, are a change. A change is put in place as a whole when it is complete.
"""

from rosepo_core.store.artifacts import Artifact, check_artifact, content_sums, fingerprint, read_manifest
from rosepo_core.store.changes import CONFIG, UNFINISHED
from rosepo_core.store.files import write_text
from rosepo_core.store.marker import MARKER, is_run
from rosepo_core.store.run_store import RunStore

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
