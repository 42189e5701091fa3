"""Workers on a cluster: what is refused before anything begins, and what the command makes of what a cluster says."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from commands import call
from conftest import no_hang

from study.checks import UsageError
from study.cli import command_of, parse_study
from study.engine import launchers
from study.engine.launchers import Cluster, State

SERVERS = ["--tracking-uri", "http://h:1", "--storage", "postgresql://u:s3cret@h/d"]
SLURM, RAY = (["--launcher", name, "--workers", "2"] for name in ("slurm", "ray"))
REFUSED = [
    *[(SLURM, "--tracking-uri"), ([*SLURM, *SERVERS[:2], "--storage", "sqlite:////tmp/optuna.db"], "--storage")],
    *[(["--launcher", "slurm", *SERVERS], "--workers must be a number"), (["--detach"], "--detach needs --launcher")],
    *[(["--launcher-options", "cpus=2"], "--launcher-options need --launcher"), (["--launcher", "lsf"], "lsf")],
    *[([*SLURM, *SERVERS], "squeue"), ([*RAY, *SERVERS, "--launcher-options", "gpu=1"], "gpu=1")],
    ([*RAY, *SERVERS, "--launcher-options", "cpus=many"], "cpus=many"),
    ([*RAY, *SERVERS, "--launcher-options", "address=127.0.0.1:1"], "127.0.0.1:1 does not answer"),
    ([*RAY, *SERVERS, "--launcher-options", "address=ray://h:10001"], "ray://h:10001 does not answer"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_what_cannot_be_is_told_at_once(flags: list[str], message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STUDY_WORKERS", raising=False)
    with no_hang():
        code, out, errors = call("run", capsys, "smoke", *flags, "--store", tmp_path / "store")
    assert (code, out, (tmp_path / "store").exists()) == (2, "", False)
    assert [word in errors for word in (message, "s3cret", "Traceback")] == [True, False, False]


def test_where_a_study_runs_is_no_part_of_what_it_computes() -> None:
    _, config = parse_study([*SLURM, *SERVERS, "--launcher-options", "cpus=4", "account=a", "--detach"])
    assert (config.launcher, config.launcher_options, config.detach) == ("slurm", ("cpus=4", "account=a"), True)
    assert command_of("demo", config) == "python -m study.run demo"


class Fake(Cluster):
    """A cluster that says what a test wants it to say."""

    def __init__(self, *states: State | None) -> None:
        super().__init__({})
        self.states, self.started, self.cancelled = list(states), 0, list[bool]()

    def start(self, count: int, environment: Mapping[str, str]) -> None:
        self.started += count
        self.own = ["job"] * count

    def state(self) -> State | None:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def cancel(self, *, only_own: bool) -> None:
        self.cancelled.append(only_own)
        self.states = [State(0, 0, "", [])]

    def stop_command(self) -> str:
        return "scancel 7"


@pytest.mark.parametrize(("running", "waiting", "started"), [(0, 0, 3), (1, 1, 1), (2, 1, 0)])
def test_missing_workers_are_started_and_end_with_the_study_or_the_command_s_stop(running, waiting, started) -> None:
    there, later = State(running, waiting, "Resources", []), State(0, 1, "Resources", [])
    cluster, stopped = Fake(there, later), Fake(there, later)
    with cluster.workers(3, {}) as watch:
        assert watch() == "Fake: 0 running, 1 waiting (Resources)"
    assert (cluster.started, cluster.cancelled) == (started, [False])
    with pytest.raises(KeyboardInterrupt), stopped.workers(3, {}):
        raise KeyboardInterrupt
    assert stopped.cancelled == [True] * bool(started)


def test_what_the_workers_say_reaches_the_command(monkeypatch) -> None:
    monkeypatch.setattr(launchers, "LOOK_EVERY", 0)
    errors = ["the store was lost", "the worker on n1 refuses: its code is old", "the store was lost"]
    with pytest.raises(UsageError, match="the worker on n1 refuses: its code is old"):
        Fake(State(1, 0, "", errors))._look()
    assert "does not answer" in Fake(None)._look()
    gone = Fake(State(0, 0, "", ["the store was lost"]))
    gone._look()
    gone._look()
    with pytest.raises(UsageError, match=r"all workers have ended .*: the store was lost; the same command"):
        gone._look()
