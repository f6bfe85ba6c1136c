"""The study: which of the paper's claims hold here, by arms that differ in one thing each."""
