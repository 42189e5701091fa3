"""Studies on a real Ray cluster of two raylets, with PostgreSQL and an MLflow server, while parts of it die."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from clusters import Ray
from on_cluster import OnCluster, all_ended, on_servers
from servers import PASSWORD

pytestmark = pytest.mark.cluster
GPUS = ["--launcher-options", "gpus=1"]  # declared ones: a worker on each node


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    with on_servers(tmp_path_factory.mktemp("ray"), ["--launcher", "ray", *GPUS], {}) as found:
        yield found


@pytest.fixture(scope="module")
def ray(studies: OnCluster) -> Iterator[Ray]:
    cluster = Ray({"PYTHONPATH": studies.environment["PYTHONPATH"]})
    try:
        studies.environment["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(autouse=True)
def nothing_is_left(ray: Ray) -> Iterator[None]:
    yield
    all_ended(ray.workers)


def test_a_raylet_and_a_worker_die_and_no_trial_is_lost(ray: Ray, studies: OnCluster) -> None:
    with studies.started(0, "--cheap.trials", 6) as command:
        command.until(lambda: studies.at_work(0) == {"r1", "r2"})
        ray.kill_node("r1")
        command.until(lambda: "1 waiting (for a place)" in command.output)
        ray.kill_worker("r2")  # which its actor starts again
        ray.add("r3")
        command.until(lambda: studies.at_work(0) == {"r2", "r3"})
        studies.release(0)
        assert command.wait() == 0
        assert command.output.count("complete loss=") == 6, "the usual lines, one a trial"
        assert "ray kill-actor" in command.output
        assert PASSWORD not in command.output
    assert set(studies.check(0, 6, deaths=2)) == {"r2", "r3"}


def test_left_alone_looked_at_and_stopped(ray: Ray, studies: OnCluster) -> None:
    studies.hold(1)
    left = studies.run(1, "--detach")
    assert left.returncode == 0, left.stderr
    with studies.started(1) as command:
        command.until(lambda: "2 of 2 workers were there before" in command.output)
        command.until(lambda: len(studies.at_work(1)) == 2)
        command.process.kill()
        command.process.wait()
    with studies.started(1) as command:
        command.until(lambda: "Ray: 2 running" in command.output)
        studies.release(1)
        assert command.wait() == 0
    studies.check(1, 4)
    with studies.started(2) as command:
        command.until(lambda: studies.at_work(2))
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert [run.info.status for run in studies.runs(2, parent=True)] == ["KILLED"]


def test_the_head_dies_and_the_same_command_goes_on(ray: Ray, studies: OnCluster) -> None:
    with studies.started(3) as command:
        command.until(lambda: len(studies.at_work(3)) == 2)
        ray.kill_head()
        assert command.wait() == 2
        (error,) = [line for line in command.output.splitlines() if line.startswith("error: ")]
        assert error.endswith("does not answer: start one, and the same command goes on")
    again = studies.run(3)
    assert again.returncode == 2
    assert "error: Ray's head" in again.stderr
    ray.remove()
    ray.start()
    studies.environment["RAY_ADDRESS"] = ray.address
    studies.release(3)
    done = studies.run(3)
    assert done.returncode == 0, done.stderr
    studies.check(3, 4, deaths=2)
