"""What is asked of one network of drawn nodes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row


def _prime(value: int) -> int:
    # checked here too, without NumPy, so that a study is refused before any of it runs
    if value < 3 or any(value % divisor == 0 for divisor in range(2, int(value**0.5) + 1)):
        raise ValueError("the modulus must be an odd prime, such as 31 or 127")
    return value


Prime = Annotated[int, Field(lt=2**20), AfterValidator(_prime)]


class Risk(Settings):
    """Parameters of one point."""

    sampler: Literal[
        "qrt-smoothed",
        "qrt-unsmoothed",
        "qrt-teacher",
        "filter",
        "uniform",
        "leverage",
        "random-features",
        "random-relu",
        "dense-trained",
    ] = "qrt-smoothed"
    """Where the hidden nodes come from. "leverage" draws from a pool of the filter's nodes by ridge leverage
    scores; "qrt-teacher" is the transform of a trained network's outputs; "random-features" and "random-relu"
    have real weights, and "dense-trained" trains the latter."""
    nodes: int = Field(64, ge=1, le=100_000)
    smoothing: float | None = Field(None, gt=0, le=1e6)
    """The width of the filter; None: chosen on the validation points. Samplers without a filter ignore it."""
    activation: str = "cosine"
    """Of nodes on Z_P; "auto": chosen on the validation points from cosine, triangle and gaussian."""
    modulus: Prime = 127
    levels: int = Field(17, ge=2)
    tolerance: float = Field(0.05, ge=1e-6, lt=1)
    """Relative error allowed to the compression of a smoothed state."""
    data: str = "digits"
    """"digits", another set of images by name, or the path of a npz, csv or parquet file."""
    points: int | None = Field(None, ge=1)
    """Training points, the first of a random order; None for all."""
    epochs: int = Field(0, ge=0, le=100_000)
    """Of training all weights, once those of the output are fitted; 0 to leave it at that."""
    backend: Literal["numpy", "cupy"] = "numpy"
    """Where states are compressed and nodes drawn."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Risk":
        if self.sampler == "dense-trained" and self.epochs == 0:
            raise ValueError("sampler 'dense-trained' needs epochs, such as 40; random-relu trains none")
        if self.levels > self.modulus:
            raise ValueError(f"levels is {self.levels}, above the modulus {self.modulus}; give fewer")
        return self


EXPERIMENT = Experiment(
    name="risk",
    summary="risk and accuracy of a shallow network whose hidden nodes one sampler draws",
    settings=Risk,
    function="qrt_tn.studies.experiments.risk.run:measure",
    tables=one_row(
        {
            "train_risk": Metric("training risk"),
            "validation_risk": Metric("validation risk"),
            "test_risk": Metric("test risk"),
            "test_accuracy": Metric("test accuracy"),
            "test_error": Metric("test error"),
            "width": Metric("width of the filter"),
            "bandwidth": Metric("bandwidth of random features, in units of the median heuristic"),
            "bond": Metric("largest bond of the state"),
            "truncation_error": Metric("relative error of the state"),
            "entropy": Metric("entropy of a drawn weight", "nats"),
            "draws": Metric("networks averaged over"),
            "state_seconds": Metric("time for states and pools, those tried included", "s", measured=True),
            "draw_seconds": Metric("time to draw nodes", "s", measured=True),
            "fit_seconds": Metric("time to fit and train", "s", measured=True),
        }
    ),
    labels={
        "nodes": "hidden nodes N",
        "smoothing": "smoothing width w",
        "points": "training points M",
        "modulus": "modulus P",
        "levels": "grey levels L",
    },
)
