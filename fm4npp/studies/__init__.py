"""Grids of ordinary runs that answer one question each: data efficiency, and scaling."""

from fm4npp.studies.data_efficiency import DataEfficiency
from fm4npp.studies.folder import Stopped, study
from fm4npp.studies.scaling import Scaling

__all__ = ["DataEfficiency", "Scaling", "Stopped", "study"]
