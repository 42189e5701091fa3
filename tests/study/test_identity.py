"""A trial is known by all that decides what it computes, and by nothing else: what is trained anew, and what is not."""

import shlex
import shutil
from pathlib import Path

import pytest
from conftest import Command
from pictures import arrays_of_letters
from studies import ALL, FAST, TRIALS, Studies, figures_of

pytestmark = pytest.mark.slow


def replay(studies: Studies, command: str, *more: object) -> str:
    """Run a recorded command on the store; it must train nothing. Returns its table."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "study.run"]
    before = studies.trials().keys()
    done = studies.run(*words[3:], *more)
    assert studies.trials().keys() == before
    return done.table


def test_the_first_seeds_study_is_found_again_whoever_is_champion(studies: Studies, letters: Path, table: str) -> None:
    before = studies.trials()
    other = studies.run(*FAST, "--data", letters, *ALL, "--seed", "1")
    both = studies.trials()
    assert len(both) == 2 * len(before)
    for model in ("abcd-judge", "abcd-autoencoder", "abcd-classifier"):
        studies.crown(model, 2)
    again = studies.run(*FAST, "--data", letters, *ALL, "--seed", "0")
    assert studies.trials().keys() == both.keys()
    assert (again.table, again.table == other.table) == (table, False)
    assert "abcd-classifier v1" in again.table
    assert studies.champion("abcd-autoencoder") == 2, "nothing new was made, so that nothing moves"


def test_data_are_known_by_their_pixels_wherever_they_are(studies: Studies, letters: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    before = studies.trials()
    studies.run(*FAST, "--data", shutil.copy(letters, tmp_path / "moved"), *ALL)
    assert studies.trials().keys() == before.keys(), "the same data elsewhere"
    changed = arrays_of_letters(tmp_path / "other" / "abcd.npz", 30, 10, "ABCD", changed_pixel=200)
    done = studies.run(*FAST, "--data", changed, *ALL)
    new = {run_id: run for run_id, run in studies.trials().items() if run_id not in before}
    assert len(new) == len(before) == sum(TRIALS.values())
    digests = [{run.data.tags["data_digest"] for run in runs.values()} for runs in (before, new)]
    assert [*map(len, digests), len(set.union(*digests))] == [1, 1, 2]
    assert "abcd-autoencoder v1 was trained on other data" not in done.errors, "its own is used"
    assert studies.champion("abcd-judge") == 1, "champions of other data are not compared with it"
    assert "abcd-judge v2" in done.table


def test_settings_of_another_stage_that_are_read_count_too(smoke: Studies) -> None:
    given = ("smoke", "--data", "digits", "--stages", "conditional-gan")
    assert len(smoke.trials("conditional-gan")) == 4, "a training and three baselines"
    smoke.run(*given, "--judge.epochs", "3", "--conditional-gan.epochs", "4")
    assert len(smoke.trials("conditional-gan")) == 8, "it trains the classifier of its accuracy score otherwise"
    smoke.run(*given, "--autoencoder.epochs", "9")
    assert len(smoke.trials("conditional-gan")) == 8, "these it does not read"


def test_trials_say_what_computed_them_threads_do_not_count(studies: Studies, letters: Path, command: Command) -> None:
    before = studies.trials()
    for tags in (run.data.tags for run in before.values()):
        assert all((tags["git_commit"], tags["git_dirty"], "torch " in tags["versions"]))
        assert (tags["device"], tags["threads"]) == ("cpu", "1")
    given = [*FAST, "--data", letters, *ALL, "--repeats", "2", "--store", studies.store]
    done = command("study.run", *given, env={"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    after = studies.trials()
    assert before.keys() < after.keys()
    new = after.keys() - before.keys()
    threads = {after[each].data.tags["threads"] for each in new}
    assert (len(new), threads) == (TRIALS["autoencoder"] + TRIALS["transfer"], {"2"})


def test_the_recorded_commands_of_all_stages_find_their_trials(smoke: Studies, smoke_store: Path) -> None:
    (command,) = {run.data.tags["command"] for run in smoke.runs() if "study" in run.data.tags}
    whole = replay(smoke, command)
    assert all(line in whole for line in (smoke_store / "output.txt").read_text().split("\n\n")[0].splitlines())
    given = ("smoke", "--data", "digits", "--stages", "latent-gan", "conditional-gan")
    inputs = "--inputs judge=1 second-judge=1 third-judge=1 autoencoder=1"
    assert replay(smoke, f"python -m study.run {shlex.join(given)} {inputs}") == smoke.run(*given).table


def test_a_stage_alone_takes_the_champion_and_its_command_keeps_the_version(studies: Studies, letters: Path) -> None:
    given = (*FAST, "--data", letters)
    alone = studies.run(*given, "--stages", "transfer", "--transfer.epochs", "2")
    parent = studies.parents("transfer")[-1]
    assert "--inputs autoencoder=1" in parent.data.tags["command"]
    assert parent.data.tags["input.autoencoder"] == "models:/abcd-autoencoder/1"
    studies.run(*given, "--stages", "autoencoder", "--seed", "1")
    studies.crown("abcd-autoencoder", 2)
    assert replay(studies, parent.data.tags["command"]) == alone.table
    before = studies.trials("transfer").keys()
    studies.run(*given, "--stages", "transfer", "--transfer.epochs", "2")
    assert len(studies.trials("transfer")) == len(before) + TRIALS["transfer"], "on the new champion"


def test_numbers_of_labels_are_not_compared(studies: Studies, letters: Path, table: str) -> None:
    given = (*FAST, "--data", letters, "--stages", "transfer")
    before = studies.trials("transfer").keys()
    more = studies.run(*given, "--transfer.labels-per-class", "20")
    assert len(studies.trials("transfer")) == len(before) + TRIALS["transfer"]
    assert studies.champion("abcd-classifier") == 1
    assert "abcd-classifier/1 stays the champion: its protocol" in more.errors
    assert "abcd-classifier v2" in more.table
    default = studies.run(*given)
    assert len(studies.trials("transfer")) == len(before) + TRIALS["transfer"]
    assert default.table.splitlines()[2:] != more.table.splitlines()[2:]
    accuracy = [figures_of(line) for line in table.splitlines() if "encoder frozen" in line]
    assert [figures_of(line) for line in default.table.splitlines() if "encoder frozen" in line] == accuracy


def test_versions_that_are_not_there_or_not_used_are_refused(studies: Studies, letters: Path) -> None:
    given = (*FAST, "--data", letters)
    for flags, sentence in {
        ("--stages", "transfer", "--inputs", "autoencoder=7"): "abcd-autoencoder/7",
        ("--stages", "judge", "--inputs", "autoencoder=1"): "--inputs autoencoder=1 must be an input of --stages",
        (*ALL, "--inputs", "autoencoder=1"): "--inputs autoencoder=1 must be an input of --stages",
    }.items():
        assert sentence in studies.call(*given, *flags).error
    assert len(studies.trials()) == sum(TRIALS.values())
