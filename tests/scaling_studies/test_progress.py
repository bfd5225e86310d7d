import io

from rich.console import Console

from qrt_tn.studies.progress import StageTimer


def test_a_log_has_a_line_at_the_start_and_the_end_of_a_stage() -> None:
    text = io.StringIO()
    timer = StageTimer(Console(file=text))
    for _ in range(2):
        with timer.stage("Counting", 3) as stage:
            stage.advance()
            stage.advance(2)
    lines = text.getvalue().splitlines()
    assert lines[0] == "Counting ..."
    assert lines[1].startswith("Counting: ")
    assert list(timer.seconds) == ["Counting"]
    assert timer.seconds["Counting"] > 0
