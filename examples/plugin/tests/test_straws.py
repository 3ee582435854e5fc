"""The contract of every class; all that a plug-in has to pass."""

from fm4npp_straws.detector import StrawTracker
from fm4npp_straws.head import FocalTagger
from fm4npp_straws.objective import Crowding
from fm4npp_straws.serializer import Sectors

from fm4npp.testing import check_detector, check_head, check_objective, check_serializer


def test_detector():
    check_detector(StrawTracker)


def test_serializer():
    check_serializer(Sectors)


def test_objective():
    check_objective(Crowding)


def test_head():
    check_head(FocalTagger)
