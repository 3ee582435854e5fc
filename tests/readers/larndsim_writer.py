"""larnd-sim event files, from the documented tables and not from our reader."""

import h5py
import numpy as np

REFERENCE = h5py.special_dtype(ref=h5py.RegionReference)
HITS = [("hid", "i8"), ("px", "f8"), ("py", "f8"), ("ts", "i8"), ("q", "f8")]
HITS += [(name, "i8") for name in ("iochain", "chipid", "channelid", "geom")] + [("event_ref", REFERENCE)]
EVENTS = [("evid", "i8"), ("track_ref", REFERENCE), ("hit_ref", REFERENCE), ("nhit", "i8"), ("q", "f8")]
EVENTS += [("ts_start", "i8"), ("ts_end", "i8"), ("ntracks", "i8")]
TRACKS = [("track_id", "i8"), ("event_ref", REFERENCE), ("hit_ref", REFERENCE), ("nhit", "i8")]
ATTRIBUTES = {"vd": 1.648, "clock_period": 0.1, "z_scale": 0.1648}


def write(path, sizes=(6, 0, 1, 9), seed=0, change=None, attributes=None):
    """A file with the given numbers of hits an event; in the first event hits go to tracks in turns.

    Args:
        path: file to write.
        sizes: hits of each event.
        seed: of the values.
        change: function of the tables (name -> array), called before they are written.
        attributes: of `tracks`, where they are not the usual ones.

    Returns:
        The events: columns by name, as they should be read.
    """
    generator = np.random.default_rng(seed)
    ends = np.cumsum(sizes)
    tables = {"hits": np.zeros(sum(sizes), HITS), "events": np.zeros(len(sizes), EVENTS)}
    hits, events = tables["hits"], tables["events"]
    hits["hid"] = np.arange(len(hits))
    hits["px"], hits["py"] = generator.normal(0, 100, (2, len(hits)))
    hits["ts"] = np.sort(generator.integers(1000, 9000, len(hits)))
    hits["q"] = generator.normal(20, 15, len(hits))
    tracks, expected = [], []
    for index, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        mine = slice(end - size, end)
        start = hits["ts"][mine].min() if size else 0
        track_id = np.full(size, -1)
        if size > 2:
            for turn in range(2):
                tracks.append((len(tracks) + 10, index, np.arange(end - size + turn, end - 1, 2)))
                track_id[turn:-1:2] = tracks[-1][0]
        events[index]["evid"], events[index]["nhit"], events[index]["ts_start"] = index * 2, size, start
        expected.append(
            {
                "x": hits["px"][mine].copy(),
                "y": hits["py"][mine].copy(),
                "z": (hits["ts"][mine] - start) * 0.1648,
                "energy": hits["q"][mine].copy(),
                "time": hits["ts"][mine].copy(),
                "track_id": track_id,
                "event_id": index * 2,
            }
        )
    tables["tracks"] = np.zeros(len(tracks), TRACKS)
    with h5py.File(path, "w") as file:
        for name, table in tables.items():
            file.create_dataset(name, (len(table),), table.dtype, maxshape=(None,), chunks=(64,))
        file["tracks"].attrs.update(ATTRIBUTES if attributes is None else attributes)
        for index, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            hits["event_ref"][end - size : end] = [file["events"].regionref[index]] * size
            events["hit_ref"][index] = file["hits"].regionref[end - size : end]
            numbers = [number for number, track in enumerate(tracks) if track[1] == index]
            events["track_ref"][index] = file["tracks"].regionref[numbers[0] : numbers[-1] + 1] if numbers else None
            events["ntracks"][index] = len(numbers)
        for number, (name, index, places) in enumerate(tracks):
            row = tables["tracks"][number]
            row["track_id"], row["nhit"], row["event_ref"] = name, len(places), file["events"].regionref[index]
            row["hit_ref"] = file["hits"].regionref[list(places)]
        if change is not None:
            change(tables, file)
        for name, table in tables.items():
            file[name][...] = table
    return expected
