import io

import pytest

from fp_tfrs import progress
from fp_tfrs.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so: `clock[0] += 1`."""
    now_s = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    return now_s


def work(clock, total=30_000, **arguments):
    with Progress(total, "reading events", "rows", **arguments) as reading:
        for _ in range(30):
            clock[0] += 0.5
            reading.advance(1_000)


def test_plain_lines_every_five_seconds_and_at_the_end(clock, capsys):
    work(clock)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "reading events: 33% (10,000 of 30,000 rows, 2,000 rows/s, 10 s left)",
        "reading events: 67% (20,000 of 30,000 rows, 2,000 rows/s, 5.0 s left)",
        "reading events: 100% (30,000 of 30,000 rows, 2,000 rows/s, 0.0 s left)",
        "reading events: done (30,000 rows in 15 s, 2,000 rows/s)",
    ]


def test_unknown_total(clock, capsys):
    work(clock, total=None)
    assert capsys.readouterr().err.splitlines()[0] == "reading events: 10,000 rows (2,000 rows/s)"


def test_quiet_prints_the_end_only(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_is_quiet", True)
    with Progress(None, "training", "steps") as training:
        progress.say("a detail")
        clock[0] += 3_700
        training.advance(10)
    assert capsys.readouterr().err == "training: done (10 steps in 1 h 1 min, 0.0027 steps/s)\n"


def test_set_quiet_holds_for_the_process(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_is_quiet", False)
    progress.set_quiet(True)
    work(clock)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_error_passes_and_work_is_not_called_done(clock, capsys):
    with pytest.raises(KeyError), Progress(10, "training", "steps") as training:
        training.advance(4)
        raise KeyError
    assert capsys.readouterr().err == "training: stopped (4 steps in 0.0 s)\n"


def test_empty_work(clock, capsys):
    with Progress(0, "reading events", "rows"):
        pass
    assert capsys.readouterr().err == "reading events: done (0 rows in 0.0 s)\n"


def test_a_terminal_gets_a_bar_with_rate_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(4, "training", "steps") as training:
        training._bar.mininterval = 0
        training.advance(2)
        progress.say("epoch 1")
        assert "50%" in terminal.getvalue()
        assert "epoch 1\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("training: done (2 steps in 0.0 s)\n")
