import numpy as np

from qrt_tn.studies.experiments.selection import Choice, choose
from qrt_tn.studies.experiments.sources import Setting, Sources


def test_the_best_mean_on_validation_is_chosen(sources: Sources) -> None:
    done = []
    choice = choose(sources, ("qrt-smoothed", "uniform", "dense"), (4, 20), lambda: done.append(1))
    assert len(done) == (4 + 1) * 2
    rows = [row for row in choice.tried if row["method"] == "qrt-smoothed" and row["nodes"] == 16]
    best = max(float(np.mean(row["validation_accuracy"])) for row in rows)  # type: ignore[arg-type]
    chosen = choice.at("qrt-smoothed", 20)
    (own,) = [
        row for row in rows if (row["activation"], row["smoothing"]) == (chosen.activation, chosen.smoothing)
    ]
    assert float(np.mean(own["validation_accuracy"])) == best  # type: ignore[arg-type]
    assert choice.at("dense", 4) == Setting()


def test_a_count_takes_the_setting_of_the_largest_compared_count_below_it() -> None:
    few, many = Setting("cosine", 0.4), Setting("cosine", 0.8)
    choice = Choice({"filter": {16: few, 256: many}}, [])
    assert [choice.at("filter", n) for n in (4, 16, 255, 256, 1024)] == [few, few, few, many, many]
