"""Studies on a real Slurm cluster of two nodes, with PostgreSQL and an MLflow server, while parts of it die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clusters import Slurm
from on_cluster import OnCluster, all_ended, on_servers
from servers import PASSWORD, until

pytestmark = pytest.mark.cluster
OPEN = "0penSesame"  # the tracking server's password, which our own asks nobody for


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    cluster = Slurm()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="module")
def studies(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    secrets = {"MLFLOW_TRACKING_USERNAME": "worker", "MLFLOW_TRACKING_PASSWORD": OPEN}
    with on_servers(
        tmp_path_factory.mktemp("slurm"), ["--launcher", "slurm"], {**slurm.environment, **secrets}
    ) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_is_left(slurm: Slurm) -> Iterator[None]:
    yield
    all_ended(slurm.jobs)


def hurry(slurm: Slurm, task: str) -> None:
    """A task that came back into the queue waits for two minutes there: not this one."""
    slurm.run("scontrol", "update", f"JobId={task}", "StartTime=now")


def test_two_nodes_share_a_study_and_nobody_sees_the_passwords(slurm: Slurm, studies: OnCluster) -> None:
    with studies.started(0, "--cheap.trials", 6) as command:
        command.until(lambda: studies.at_work(0) == {"n1", "n2"})
        shown = slurm.run("scontrol", "show", "job", "-dd").stdout
        for secret in (PASSWORD, OPEN, "s3cret"):
            assert secret not in shown
            for file in [*(studies.folder / "store").rglob("*"), *slurm.folder.rglob("*")]:
                if file.is_file() and secret.encode() in file.read_bytes():
                    assert file.name == "environment", file  # of the job, which Slurm keeps to itself
                    assert file.stat().st_mode & 0o077 == 0
            for pid in (pid for node in ("n1", "n2") for pid in slurm.processes(node)):
                assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        studies.release(0)
        assert command.wait() == 0
        assert "stops the workers" in command.output
        assert command.output.count("complete loss=") == 6, "the usual lines, one a trial"
        assert "digits-cheap v1" in command.output
        assert PASSWORD not in command.output
    assert set(studies.check(0, 6)) == {"n1", "n2"}


def test_nodes_and_workers_die_and_no_trial_is_lost(slurm: Slurm, studies: OnCluster) -> None:
    with studies.started(1) as command:
        command.until(lambda: studies.at_work(1) == {"n1", "n2"})
        slurm.kill_worker("n2")  # which the job's script starts again
        command.until(lambda: len(studies.runs(1)) == 3 and studies.at_work(1) == {"n1", "n2"})
        slurm.kill_node("n1")
        studies.release(1)
        assert command.wait() == 0
    slurm.start_node("n1")
    assert studies.check(1, 4, deaths=2) == {"n2": 4}


def test_workers_come_back_after_a_preemption_and_at_the_end_of_their_time(slurm: Slurm, studies: OnCluster) -> None:
    with studies.started(2) as command:
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        one, two = (slurm.tasks()[node] for node in ("n1", "n2"))
        urgent = ("-p", "high", "-w", "n1", "-J", "urgent", "-o", "/dev/null")
        assert slurm.run("sbatch", *urgent, "--wrap", "sleep 1").returncode == 0
        command.until(lambda: "urgent" in slurm.run("squeue", "-h", "-t", "R", "-o", "%j").stdout)
        command.until(lambda: "urgent" not in slurm.run("squeue", "-h", "-o", "%j").stdout)
        command.until(lambda: "1 waiting (BeginTime)" in command.output)
        hurry(slurm, one)
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        # What Slurm sends a minute before the time limit: the worker puts itself back into the queue.
        assert slurm.run("scancel", "-b", "-s", "USR1", two).returncode == 0
        command.until(lambda: "n2" not in slurm.tasks() and studies.at_work(2) == {"n1"})
        command.until(lambda: "PENDING " in slurm.jobs())
        hurry(slurm, two)
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        studies.release(2)
        assert command.wait() == 0
    studies.check(2, 4, stops=2)


def test_controller_and_command_die_and_the_same_command_goes_on(slurm: Slurm, studies: OnCluster) -> None:
    with studies.started(3) as command:
        command.until(lambda: studies.at_work(3) == {"n1", "n2"})
        slurm.kill_controller()
        command.until(lambda: "does not answer; the workers go on" in command.output)
        slurm.start_controller()
        command.process.kill()
        command.process.wait()
    assert slurm.tasks().keys() == {"n1", "n2"}, "workers need no command"
    with studies.started(3) as command:
        command.until(lambda: "2 of 2 workers were there before" in command.output)
        studies.release(3)
        assert command.wait() == 0
    studies.check(3, 4)


def test_left_alone_looked_at_and_stopped(slurm: Slurm, studies: OnCluster) -> None:
    studies.hold(4)
    left = studies.run(4, "--workers", 3, "--detach")  # one more than there are places
    assert left.returncode == 0, left.stderr
    with studies.started(4, "--workers", 3) as command:
        command.until(lambda: "Slurm: 2 running, 1 waiting (Resources)" in command.output)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert len(slurm.jobs()) == 3, "it has started none of them"
    studies.release(4)
    until(lambda: slurm.jobs() == [], "the end of the study")
    logs = "".join(file.read_text() for file in (studies.folder / "store" / "logs").rglob("*.log"))
    refused = [line for line in logs.splitlines() if line.startswith("error: ")]  # not Slurm's own, of a requeue
    assert refused == [], "the last worker starts as all others are gone, and finds the study finished"
    studies.check(4, 4)
    with studies.started(5) as command:
        command.until(lambda: studies.at_work(5))
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert {run.info.status for run in studies.runs(5)} == {"KILLED"}
    assert [run.info.status for run in studies.runs(5, parent=True)] == ["KILLED"]


def test_a_node_without_the_data_is_told(slurm: Slurm, studies: OnCluster) -> None:
    data = studies.folder / "mine.npz"
    images, labels = np.zeros((400, 28, 28), np.uint8), np.arange(400) % 4
    images += np.random.default_rng(0).integers(0, 255, images.shape, np.uint8)
    np.savez(data, train_images=images, train_labels=labels, test_images=images[:80], test_labels=labels[:80])
    with studies.started(6, "--data", data) as command:
        command.until(lambda: "Slurm job" in command.output)
        data.unlink()  # as it is to workers on machines that do not have the folder
        assert command.wait() == 2
        (error,) = [line for line in command.output.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: the worker on n")
    assert "mine.npz" in error


@pytest.mark.parametrize(("option", "message"), [("partition=gpu", "partition"), ("nonsense=1", "--nonsense=1")])
def test_what_slurm_does_not_have_is_told(studies: OnCluster, option: str, message: str) -> None:
    done = studies.run(7, "--launcher-options", option)
    assert (done.returncode, message in done.stderr.rpartition("error: Slurm ")[2]) == (2, True)


def test_a_controller_that_is_away_is_told(slurm: Slurm, studies: OnCluster) -> None:
    slurm.kill_controller()
    done = studies.run(8)
    slurm.start_controller()
    assert (done.returncode, "error: Slurm " in done.stderr) == (2, True)
