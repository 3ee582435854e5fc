"""Metrics of predictions against truth: pure functions on arrays, accumulated over a set of events."""

from __future__ import annotations

from fm4npp.metrics.classification import ClassificationMetrics, confusion_matrix, evaluate_classes
from fm4npp.metrics.tracking import TrackingMetrics, evaluate_tracks, per_event_ari
from fm4npp.metrics.uncertainty import bootstrap, clopper_pearson

__all__ = [
    "ClassificationMetrics",
    "TrackingMetrics",
    "bootstrap",
    "clopper_pearson",
    "confusion_matrix",
    "evaluate_classes",
    "evaluate_tracks",
    "per_event_ari",
]
