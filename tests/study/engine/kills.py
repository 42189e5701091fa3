"""The program that test_kills.py runs: a study of cheap but real trials, under a rain of kill -9.

    OMP_NUM_THREADS=1 python kills.py STORE KILLS SEED

Everything is imported once, and each command is a fork: starting a process takes milliseconds, not seconds. Two of the
same command work side by side. It kills one of them or both, after random times and in the middle of chosen calls, and
starts them again, until it has killed KILLS times; then it lets them end. Prints what it did as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from functools import wraps
from pathlib import Path

import mlflow
import optuna
import torch
from cheap_stage import cheap

import study.stages
from study import run
from study.engine import queue

COMMAND = "smoke --data digits"
RISK = 0.01  # of dying as each of these calls begins, and as it ends
DEATHS = Path(sys.argv[1]).with_suffix(".deaths")  # where processes died by these
CLIENT = "create_run log_batch log_dict set_terminated create_model_version update_model_version set_model_version_tag"
RISKY: list[tuple[object, str]] = [
    *((queue.Queue, name) for name in ("add", "take", "note")),
    *((optuna.Study, name) for name in ("ask", "tell")),
    (mlflow.pytorch, "save_model"),
    *((mlflow.MlflowClient, name) for name in (*CLIENT.split(), "set_registered_model_alias", "log_model_artifacts")),
]


def risky(owner: object, name: str) -> None:
    """Let the process die, now and then, as this call begins or ends."""
    call = getattr(owner, name)

    @wraps(call)
    def wrapped(*args: object, **kwargs: object) -> object:
        roll(f"before {name}")
        result = call(*args, **kwargs)
        roll(f"after {name}")
        return result

    setattr(owner, name, wrapped)


def roll(place: str) -> None:
    if random.random() < RISK:
        with DEATHS.open("a") as deaths:
            deaths.write(f"{place}\n")
        os.kill(os.getpid(), signal.SIGKILL)


def launch(arguments: list[str], log: Path, seed: int, risk: bool) -> int:
    """Start the command; return its process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as errors:
            os.dup2(errors.fileno(), 2)
            os.dup2(errors.fileno(), 1)
        random.seed(seed)
        for owner, name in RISKY if risk else []:
            risky(owner, name)
        code = run.main(arguments)
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def main(folder: Path, wanted: int, seed: int) -> None:
    assert torch.get_num_threads() == 1, "set OMP_NUM_THREADS=1: threads do not survive a fork"
    dice = random.Random(seed)
    study.stages.OURS = (cheap("one", (), "first"), cheap("two", ("first",), "second"))
    command = f"{COMMAND} --workers 1 --stages".split()
    # What is imported as it is needed comes with the first study.
    assert run.main([*command, "one", "--log-level", "warning", "--store", str(folder.with_name("warm"))]) == 0
    log = folder.with_suffix(".log")
    number = launches = kills = 0
    DEATHS.touch()
    while True:
        deaths = DEATHS.read_text().splitlines()
        calm = kills + len(deaths) >= wanted
        arguments = [*command, "one", "two", "--seed", str(number), "--store", str(folder)]
        running = {launch(arguments, log, seed + launches + each, risk=not calm) for each in range(2)}
        launches += 2
        victims = set() if calm else dice.choice([set(), {min(running)}, running]) & running
        deadline, codes = time.monotonic() + dice.uniform(0.5, 6), []
        while running:
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    running.remove(pid)
                    codes.append(os.waitstatus_to_exitcode(status))
                elif pid in victims and time.monotonic() > deadline:
                    victims = victims - {pid}
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
            time.sleep(0.02)
        assert set(codes) <= {0, -signal.SIGKILL}, (codes, log.read_text())
        if calm:
            break
        number += 0 in codes
    print(json.dumps({"kills": kills, "died": deaths, "launches": launches, "studies": number + 1}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
