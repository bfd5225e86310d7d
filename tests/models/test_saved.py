import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qrt_tn import models
from qrt_tn.models import RidgeletClassifier, RidgeletRegressor, SavedModel
from qrt_tn.models.columns import Column, Columns
from qrt_tn.models.saved import save

CHOSEN: dict[str, Any] = {"smoothing": 0.6, "beta": 4, "levels": 9, "modulus": 31, "quantizer": "uniform"}
COLUMNS = Columns((Column("left"), Column("right")), "kind", True)


def model(values: tuple[Any, ...] | None = ("a", "b", "c"), seed: int = 0, **changes: Any) -> SavedModel:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 2))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    kind: Any = RidgeletRegressor if values is None else RidgeletClassifier
    target = y * 2.5 if values is None else y
    estimator = kind(12, random_state=seed, **CHOSEN).fit(x, target)
    given = {"columns": COLUMNS, "fills": None, "image_shape": None} | changes
    return SavedModel(estimator, target="kind", class_values=values, **given)


@pytest.mark.parametrize("values", [("a", "b", "c"), (3, 7, 9), (0.5, 1.0, 2.0), None])
def test_a_loaded_model_is_the_saved_one(tmp_path: Path, values: tuple[Any, ...] | None) -> None:
    own = model(values, fills=np.array([0.5, -0.5]))
    save(tmp_path / "run" / "model", own)
    x = np.random.default_rng(1).normal(size=(40, 2)) * 2
    x[::7, 1] = np.nan
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        loaded = models.load(folder)
        np.testing.assert_array_equal(loaded.predict(x), own.predict(x))
        if values is not None:
            np.testing.assert_array_equal(loaded.predict_proba(x), own.predict_proba(x))
            assert set(loaded.predict(x).tolist()) <= set(values)
            assert [type(value) for value in loaded.class_values or ()] == [type(value) for value in values]
    assert {path.suffix for path in (tmp_path / "run" / "model").iterdir()} == {".safetensors"}


def test_columns_are_found_by_name() -> None:
    own = model()
    x = np.random.default_rng(1).normal(size=(30, 2))
    frame = pd.DataFrame({"note": "n", "right": x[:, 1], "left": x[:, 0]})
    np.testing.assert_array_equal(own.predict(frame), own.predict(x))
    with pytest.raises(ValueError, match="left"):
        own.predict(frame.drop(columns="left"))
    with pytest.raises(ValueError, match=r"\(30, 3\)"):
        own.predict(np.zeros((30, 3)))
    frame.loc[3, "right"] = np.nan
    with pytest.raises(ValueError, match="column 'right' has 1 missing"):
        own.predict(frame)


def test_arrays_and_images() -> None:
    own = model(columns=None, image_shape=(1, 2))
    x = np.random.default_rng(1).normal(size=(30, 2))
    np.testing.assert_array_equal(own.predict(x[:, None, :]), own.predict(x))
    for wrong in (x[:, :1], x[:, :, None], x.astype(str)):
        with pytest.raises(ValueError, match=r"X has shape"):
            own.predict(wrong)
    with pytest.raises(ValueError, match="array"):
        own.predict(pd.DataFrame(x))


def test_numbers_have_no_probabilities() -> None:
    with pytest.raises(ValueError, match="predicts numbers"):
        model(None).predict_proba(np.zeros((1, 2)))


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    save(whole, model())
    save(other, model(("c", "b", "a"), seed=1))
    for k, name in enumerate(saved.name for saved in sorted(whole.iterdir())):
        content = bytearray((whole / name).read_bytes())
        flipped = content.copy()
        flipped[-9] ^= 1
        for damage in (None, content[:-9], flipped, (other / name).read_bytes()):
            place = tmp_path / f"damaged{k}"
            shutil.copytree(whole, place, dirs_exist_ok=True)
            (place / name).unlink()
            if damage is not None:
                (place / name).write_bytes(damage)
            with pytest.raises(ValueError, match=f"damaged{k}"):
                models.load(place)
    with pytest.raises(ValueError, match="nowhere"):
        models.load(tmp_path / "nowhere")
