"""What a file holds, which detectors read it, and a detector to start from if none does."""

from __future__ import annotations

from fm4npp.inspection.files import describe, read_with
from fm4npp.inspection.proposal import Proposal, propose
from fm4npp.inspection.scan import inspect_scan
from fm4npp.inspection.statistics import Statistics
from fm4npp.inspection.stored import inspect_events

__all__ = ["Proposal", "Statistics", "describe", "inspect_events", "inspect_scan", "propose", "read_with"]
