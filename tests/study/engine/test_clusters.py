"""Studies on real clusters of two nodes, Slurm's and Ray's, with PostgreSQL and an MLflow server; parts of it die."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Ray, Slurm
from on_cluster import OnCluster, on_servers
from servers import PASSWORD, until

pytestmark = pytest.mark.cluster
OPEN = "0penSesame"  # the tracking server's password, which our own asks nobody for
FLAGS = {"slurm": [], "ray": ["--launcher-options", "gpus=1"]}  # declared ones: a worker on each node
on_slurm = pytest.mark.parametrize("studies", ["slurm"], indirect=True)


@pytest.fixture(scope="module", params=["slurm", "ray"])
def studies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    kind = request.param
    with on_servers(tmp_path_factory.mktemp(kind), ["--launcher", kind, *FLAGS[kind]]) as found:
        found.cluster = Slurm() if kind == "slurm" else Ray({"PYTHONPATH": found.environment["PYTHONPATH"]})
        secrets = {"MLFLOW_TRACKING_USERNAME": "worker", "MLFLOW_TRACKING_PASSWORD": OPEN}
        found.environment |= found.cluster.environment | secrets
        try:
            yield found
        finally:
            found.cluster.remove()


@pytest.fixture
def cluster(studies: OnCluster) -> Iterator[Any]:
    """The cluster, on which a test leaves no worker."""
    yield studies.cluster
    until(lambda: studies.cluster.left() == [], "the end of all workers", 20)


def hurry(slurm: Slurm, task: str) -> None:
    """A task that came back into the queue waits for two minutes there: not this one."""
    slurm.run("scontrol", "update", f"JobId={task}", "StartTime=now")


@on_slurm
def test_two_nodes_share_a_study_and_nobody_sees_the_passwords(cluster: Slurm, studies: OnCluster) -> None:
    with studies.started(0, "--cheap.trials", 6) as command:
        command.until(lambda: studies.at_work(0) == {"n1", "n2"})
        shown = cluster.run("scontrol", "show", "job", "-dd").stdout
        for secret in (PASSWORD, OPEN, "s3cret"):
            assert secret not in shown
            for file in [*(studies.folder / "store").rglob("*"), *cluster.folder.rglob("*")]:
                if file.is_file() and secret.encode() in file.read_bytes():
                    assert file.name == "environment", file  # of the job, which Slurm keeps to itself
                    assert file.stat().st_mode & 0o077 == 0
            for pid in (pid for node in ("n1", "n2") for pid in cluster.processes(node)):
                assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        studies.release(0)
        found = command.wait(), "digits-cheap v1" in command.output, PASSWORD in command.output
        assert found == (0, True, False)
    assert set(studies.check(0, 6)) == {"n1", "n2"}


def test_nodes_and_workers_die_and_no_trial_is_lost(cluster: Any, studies: OnCluster) -> None:
    one, two = cluster.nodes
    with studies.started(1, "--cheap.trials", 6) as command:
        command.until(lambda: studies.at_work(1) == {one, two})
        cluster.kill_worker(two)  # which the job's script, or the actor, starts again
        command.until(lambda: len(studies.runs(1)) == 3 and studies.at_work(1) == {one, two})
        cluster.kill_node(one)
        if isinstance(cluster, Ray):  # which starts the worker again where there is a place
            command.until(lambda: "1 waiting (for a place)" in command.output)
            cluster.start_node(one)
            command.until(lambda: studies.at_work(1) == {one, two} and len(studies.runs(1)) == 4)
        studies.release(1)
        assert command.wait() == 0
        assert command.output.count("cheap given: trial ") == 2, "the usual lines, one a trial"
        assert ("stops the workers" in command.output, PASSWORD in command.output) == (True, False)
    if isinstance(cluster, Slurm):
        cluster.start_node(one)
    assert set(studies.check(1, 6, deaths=2)) == ({two} if isinstance(cluster, Slurm) else {one, two})


@on_slurm
def test_workers_come_back_after_a_preemption_and_at_the_end_of_their_time(cluster: Slurm, studies: OnCluster) -> None:
    with studies.started(2) as command:
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        one, two = (cluster.tasks()[node] for node in ("n1", "n2"))
        urgent = ("-p", "high", "-w", "n1", "-J", "urgent", "-o", "/dev/null")
        assert cluster.run("sbatch", *urgent, "--wrap", "sleep 1").returncode == 0
        command.until(lambda: "urgent" in cluster.run("squeue", "-h", "-t", "R", "-o", "%j").stdout)
        command.until(lambda: "urgent" not in cluster.run("squeue", "-h", "-o", "%j").stdout)
        command.until(lambda: "1 waiting (BeginTime)" in command.output)
        hurry(cluster, one)
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        # What Slurm sends a minute before the time limit: the worker puts itself back into the queue.
        assert cluster.run("scancel", "-b", "-s", "USR1", two).returncode == 0
        command.until(lambda: "n2" not in cluster.tasks() and studies.at_work(2) == {"n1"})
        command.until(lambda: "PENDING " in cluster.left())
        hurry(cluster, two)
        command.until(lambda: studies.at_work(2) == {"n1", "n2"})
        studies.release(2)
        assert command.wait() == 0
    studies.check(2, 5, stops=2)


def test_controller_and_command_die_and_the_same_command_goes_on(cluster: Any, studies: OnCluster) -> None:
    with studies.started(3) as command:
        command.until(lambda: studies.at_work(3) == set(cluster.nodes))
        if isinstance(cluster, Slurm):
            cluster.kill_controller()
            command.until(lambda: "does not answer; the workers go on" in command.output)
            cluster.start_controller()
        command.process.kill()
        command.process.wait()
    with studies.started(3) as command:
        command.until(lambda: "2 of 2 workers were there before" in command.output)
        studies.release(3)
        assert command.wait() == 0
    studies.check(3, 5)


def test_left_alone_looked_at_and_stopped(cluster: Any, studies: OnCluster) -> None:
    studies.hold(4).touch()
    left = studies.run(4, "--workers", 3, "--detach")  # one more than there are places
    assert left.returncode == 0, left.stderr
    with studies.started(4, "--workers", 3) as command:
        command.until(lambda: f"{type(cluster).__name__}: 2 running, 1 waiting (" in command.output)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert studies.at_work(4) == set(cluster.nodes), "it has started none of them"
    studies.release(4)
    until(lambda: cluster.left() == [], "the end of the study")
    logs = "".join(file.read_text() for file in (studies.folder / "store").rglob("logs/**/*.log"))
    refused = [line for line in logs.splitlines() if line.startswith("error: ")]  # not Slurm's own, of a requeue
    assert refused == [], "the last worker starts as all others are gone, and finds the study finished"
    studies.check(4, 5)
    with studies.started(5) as command:
        command.until(lambda: studies.at_work(5))
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert {run.info.status for run in studies.runs(5)} == {"KILLED"}
    assert [run.info.status for run in studies.runs(5, parent=True)] == ["KILLED"]


@on_slurm
def test_what_slurm_does_not_have_and_a_node_without_the_data_are_told(cluster: Slurm, studies: OnCluster) -> None:
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
    for option, message in (("partition=gpu", "partition"), ("nonsense=1", "--nonsense=1")):
        done = studies.run(7, "--launcher-options", option)
        assert (done.returncode, message in done.stderr.rpartition("error: Slurm ")[2]) == (2, True)
    cluster.kill_controller()
    done = studies.run(8)
    cluster.start_controller()
    assert (done.returncode, "error: Slurm " in done.stderr) == (2, True)


@pytest.mark.parametrize("studies", ["ray"], indirect=True)
def test_the_head_dies_and_the_same_command_goes_on(cluster: Ray, studies: OnCluster) -> None:
    with studies.started(9) as command:
        command.until(lambda: len(studies.at_work(9)) == 2)
        cluster.kill_head()
        assert command.wait() == 2
    again = studies.run(9)
    for output in (command.output, again.stderr):
        (error,) = [line for line in output.splitlines() if line.startswith("error: Ray's head")]
        assert error.endswith("does not answer: start one, and the same command goes on")
    assert again.returncode == 2
    cluster.remove()
    cluster.start()
    studies.environment |= cluster.environment
    studies.release(9)
    done = studies.run(9)
    assert done.returncode == 0, done.stderr
    studies.check(9, 5, deaths=2)
