"""The time that is left of an audit: what was announced, at the pace of this machine."""

import pytest

from trustbound.cli.progress import AuditProgress, Remaining, announced, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


KNOWN = {"t/checks-before": 2.0, "t/first": 4.0, "t/proof-crown": 10.0, "t/curve-runs": 4.0}


def run(pace, clock=None):
    """An audit whose every step takes `pace` times what was announced; what was said to be left, and what was."""
    clock = Clock()
    left, told, done = Remaining(KNOWN, clock=clock), [], 0.0
    for step, seconds in KNOWN.items():
        left.begin(step, 4)
        for _ in range(4):
            clock.now += pace * seconds / 4
            done += seconds / 4
            left.advance(1)
            told.append((left.seconds(), pace * (sum(KNOWN.values()) - done)))
    return told


@pytest.mark.parametrize("pace", [0.5, 1.0, 3.0])
def test_the_pace_is_learnt_from_the_first_steps(pace):
    told = run(pace)
    for said, true in told[4:]:
        assert said == pytest.approx(true)
    assert told[-1][0] == pytest.approx(0.0)


def test_steps_that_were_passed_over_are_not_waited_for():
    clock = Clock()
    left = Remaining(KNOWN, clock=clock)
    left.begin("t/checks-before", 1)
    clock.now = 2.0
    left.advance(1)
    left.begin("t/curve-attack-3", 10)
    assert left.seconds() == pytest.approx(4.0)
    assert left.share() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("t/first", "t/first"),
        ("t/round-12-walk", "t/rounds"),
        ("t/wide-3", "t/wide"),
        ("t/curve-attack", "t/curve-attack"),
        ("t/curve-attack-4", "t/curve-runs"),
        ("t/proof-crown-2", "t/proof-crown"),
        ("t/proof-crown-control", "t/proof-crown"),
        ("t/proof-alpha-crown-2", "t/proof-alpha-crown"),
        ("t/curve-proof-crown-1", "t/curve-proof-crown"),
        ("linf:8/255/curve-proof-interval-rest-2", "linf:8/255/curve-proof-interval"),
        ("t/trial-smooth", "t/first"),
        ("clean", "clean"),
    ],
)
def test_numbered_steps_belong_to_a_line_of_the_plan(step, line):
    lines = "t/first t/rounds t/wide t/curve-attack t/curve-runs t/proof-crown t/proof-alpha-crown t/curve-proof-crown"
    assert announced(step, dict.fromkeys([*lines.split(), "linf:8/255/curve-proof-interval"], 1.0)) == line


def test_where_no_terminal_is_a_line_is_said_at_most_every_ten_seconds(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("trustbound.cli.progress.time.perf_counter", clock)
    with AuditProgress() as progress:
        progress.expect({"clean": 5.0, "t/first": 15.0})
        for step in ("clean", "t/first"):
            progress.begin(step, 20)
            for _ in range(20):
                clock.now += 0.5
                progress.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "clean: 0 of 20; 0 % of the audit, about 20 s left"
    assert "of the audit, about" in lines[-1]


def test_durations_are_said_as_people_do():
    assert [duration(seconds) for seconds in (0.0, 9.0, 41.0, 130.0, 8000.0)] == [
        "10 s",
        "10 s",
        "50 s",
        "2 min",
        "2.2 h",
    ]


@pytest.mark.parametrize("blocks", [(10.0, 20.0, 30.0), (60.0,), (30.0, 30.0)])
def test_what_is_left_does_not_rise_when_a_further_block_begins(blocks):
    """Of a line that was announced as 60 seconds, however many blocks it takes."""
    clock = Clock()
    left = Remaining({"t/first": 30.0, "t/proof-branch-and-bound": 60.0, "t/checks-after": 10.0}, clock=clock)
    left.begin("t/first", 1)
    clock.now = 30.0
    left.advance(1)
    told = [left.seconds()]
    for number, seconds in enumerate(blocks, 1):
        left.begin(f"t/proof-branch-and-bound-{number}", 10)
        for _ in range(10):
            clock.now += seconds / 10
            left.advance(1)
            told.append(left.seconds())
            assert told[-1] == pytest.approx(70.0 - (clock.now - 30.0))
    assert told == sorted(told, reverse=True)
    left.begin("t/checks-after", 1)
    assert left.seconds() == pytest.approx(10.0)


def test_a_line_that_ends_with_its_first_block_is_over():
    clock = Clock()
    left = Remaining({"t/first": 30.0, "t/proof-branch-and-bound": 60.0, "t/checks-after": 10.0}, clock=clock)
    left.begin("t/first", 1)
    clock.now = 30.0
    left.advance(1)
    left.begin("t/proof-branch-and-bound", 4)
    clock.now = 45.0
    left.advance(4)
    assert left.seconds() == pytest.approx(55.0)  # another block may come
    left.begin("t/checks-after", 1)
    assert left.seconds() == pytest.approx(10.0)
