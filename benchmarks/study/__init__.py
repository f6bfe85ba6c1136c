"""The study: which of the paper's claims hold here, by arms that differ in one thing each."""

import time

BEGUN = time.monotonic()
"""When this process began with the study, for a limit that includes the import of its libraries."""
