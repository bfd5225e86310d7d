import numpy as np
import pytest

from qrt_tn.field import centred
from qrt_tn.models import CosineNetwork, DenseNetwork, RidgeNetwork
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.sources import Setting, Sources, inputs

SETTINGS = {
    "qrt-smoothed": Setting("cosine", 0.5),
    "qrt-unsmoothed": Setting("cosine"),
    "filter": Setting("cosine", 0.5),
    "uniform": Setting("cosine"),
    "random-features": Setting(bandwidth=1.0),
    "dense": Setting(),
}


@pytest.mark.parametrize("method", SETTINGS)
def test_every_method_gives_a_network_of_its_kind(sources: Sources, folds: list[Fold], method: str) -> None:
    assert SETTINGS[method].__class__ in {type(setting) for setting in sources.settings(method)}
    network = sources.network(method, folds[0], SETTINGS[method], 7, stream=1)
    kind = {"random-features": CosineNetwork, "dense": DenseNetwork}.get(method, RidgeNetwork)
    assert isinstance(network, kind)
    assert network.compute_features(inputs(network, folds[0])).shape == (150, 7)
    again = sources.network(method, folds[0], SETTINGS[method], 7, stream=1)
    other = sources.network(method, folds[0], SETTINGS[method], 7, stream=2)
    features = [n.compute_features(inputs(n, folds[0])) for n in (network, again, other)]
    np.testing.assert_array_equal(features[0], features[1])
    assert not np.array_equal(features[0], features[2])


def test_smoothed_nodes_have_low_frequencies_and_unsmoothed_ones_do_not(
    sources: Sources, folds: list[Fold]
) -> None:
    # with the cosine, v is 1 or -1, so that a is u up to its sign
    smooth = sources.nodes("qrt-smoothed", folds[0], SETTINGS["qrt-smoothed"], 200, 1)
    rough = sources.nodes("qrt-unsmoothed", folds[0], SETTINGS["qrt-unsmoothed"], 200, 1)
    assert np.abs(centred(smooth.a, 31)).max() <= 3
    assert np.abs(centred(rough.a, 31)).mean() > 5
