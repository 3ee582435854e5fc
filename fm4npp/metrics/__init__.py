"""Metrics of predictions against truth: pure functions on arrays, accumulated over a set of events."""

from __future__ import annotations

from fm4npp.metrics.binning import EDGES, EfficiencyBin, PurityBin
from fm4npp.metrics.calibration import ReliabilityBin
from fm4npp.metrics.classification import ClassificationMetrics, confusion_matrix, evaluate_classes
from fm4npp.metrics.comparison import Paired, holm, paired
from fm4npp.metrics.contingency import per_event_ari
from fm4npp.metrics.definitions import DEFINITIONS, definitions
from fm4npp.metrics.probabilities import ProbabilityMetrics, evaluate_probabilities
from fm4npp.metrics.regression import RegressionMetrics, evaluate_values
from fm4npp.metrics.selection import TrackSelection
from fm4npp.metrics.tracking import TrackingMetrics, TracksOfEvent, evaluate_tracks
from fm4npp.metrics.uncertainty import bootstrap, clopper_pearson

__all__ = [
    "DEFINITIONS",
    "EDGES",
    "ClassificationMetrics",
    "EfficiencyBin",
    "Paired",
    "ProbabilityMetrics",
    "PurityBin",
    "RegressionMetrics",
    "ReliabilityBin",
    "TrackSelection",
    "TrackingMetrics",
    "TracksOfEvent",
    "bootstrap",
    "clopper_pearson",
    "confusion_matrix",
    "definitions",
    "evaluate_classes",
    "evaluate_probabilities",
    "evaluate_tracks",
    "evaluate_values",
    "holm",
    "paired",
    "per_event_ari",
]
