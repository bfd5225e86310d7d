import numpy as np

from qrt_tn.engine.drawing import draw, draw_running


def test_draw():
    weights = np.array([[0.0, 1.0, 0.0, 3.0, 0.0]])
    for uniform, expected in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.5, 3), (1 - 2**-53, 3)):
        assert draw(weights, np.array([uniform])) == expected
    # a total that rounds: never past the last entry with weight, never one without
    rng = np.random.default_rng(0)
    many = rng.random((5000, 9)) * (rng.random((5000, 9)) < 0.5)
    many[:, 4] += 1e-12
    for uniforms in (np.zeros(5000), np.full(5000, np.nextafter(1, 0)), rng.random(5000)):
        assert (many[np.arange(5000), draw(many, uniforms)] > 0).all()


def test_draw_running():
    running = np.cumsum([0.0, 1.0, 0.0, 3.0, 0.0])
    uniforms = np.array([[0.0, 0.2499], [0.25, 1 - 2**-53]])
    assert draw_running(running, uniforms).tolist() == [[1, 1], [3, 3]]
    rng = np.random.default_rng(0)
    weights = rng.random(9) * (rng.random(9) < 0.5)
    weights[4] += 1e-12
    for drawn in (np.zeros(100), np.full(100, np.nextafter(1, 0)), rng.random(5000)):
        assert (weights[draw_running(np.cumsum(weights), drawn)] > 0).all()
