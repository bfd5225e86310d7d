from typing import get_args

from qrt_tn.studies.config import load_study
from qrt_tn.studies.experiments.tickets.settings import YARDSTICKS, Tickets


def test_two_studies_hold_every_method_on_every_data_set_once() -> None:
    methods = get_args(Tickets.model_fields["method"].annotation)
    data = get_args(Tickets.model_fields["data"].annotation)
    points = [point for name in ("tickets", "yardsticks") for point in load_study(name).points]
    found = {(point.parameters["method"], point.parameters["data"]) for point in points}
    assert found == {(method, name) for method in methods for name in data}
    assert len({point.id for point in points}) == len(points)
    assert len(load_study("yardsticks").points) == 5 * len(YARDSTICKS) * len(data)
