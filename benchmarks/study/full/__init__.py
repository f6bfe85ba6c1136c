"""The study at full size: one process on one GPU, in calls of some minutes that go on from a folder."""
