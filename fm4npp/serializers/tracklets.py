"""Piece of track by piece of track: what straightest links join is read in one go, outwards."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fm4npp.geometry import Geometry
from fm4npp.links import joined, straightest_links
from fm4npp.serializers.base import Array, Serializer
from fm4npp.serializers.radial import outwards


class Tracklets(Serializer):
    """Groups of spacepoints that straightest links join, one after the other, each from the inside out.

    The next spacepoint of a particle is then mostly the next of the sequence, whatever else the event holds, so that a
    small state can carry what the particle did so far. In the paper's raster scan other particles' spacepoints lie
    between, hundreds of them in a dense event. Nothing but positions is used, see `fm4npp.links`. Groups follow by
    their innermost spacepoint. There is nothing to fit.
    """

    registered_name: ClassVar[str] = "tracklets"

    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Serializer.order`."""
        coordinates = np.asarray(coordinates).reshape(-1, 3)
        # In this order the links cannot depend on the file's, even where two candidates are equally good.
        outward = outwards(coordinates, geometry)
        points = coordinates[outward]
        links, _ = straightest_links(geometry.positions(points), geometry.outward(points))
        group = joined(links)
        first = np.full(len(points), len(points))
        np.minimum.at(first, group, np.arange(len(points)))
        order: Array = outward[np.argsort(first[group], kind="stable")]
        return order
