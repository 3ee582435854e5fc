"""Predictions for events, and their metrics against truth."""

from __future__ import annotations

from fm4npp.evaluation.evaluate import evaluate
from fm4npp.evaluation.predict import predict_events, write_predictions

__all__ = ["evaluate", "predict_events", "write_predictions"]
