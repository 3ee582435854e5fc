"""A cache that takes its time, for a process of its own; here, so that the process imports no more than it needs."""

import time

from fm4npp.data import EventDataset, cached


def build_slowly(files, processor, folder, seconds) -> None:
    """Build the cache, with a pause before every event."""
    whole = processor.indices

    def slow(event):
        time.sleep(seconds)
        return whole(event)

    processor.indices = slow
    cached(EventDataset(files), processor, folder)
