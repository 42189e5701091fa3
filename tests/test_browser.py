"""What a person sees: MLflow's pages and the report in a real browser, Debian's Chromium driven by Playwright."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from servers import free_port

from study.report import __main__ as report
from study.report.collect import collect
from study.report.page import render
from study.stages import all_stages
from tracking.runs import study_run
from tracking.store import Store, open_store, read_store

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium")
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
# MLflow opens an assistant beside its pages; a user closes it once.
CLOSED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
SEEN = 30_000  # milliseconds within which something must be on the page


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        options = [f"--{option}" for option in OPTIONS]
        started = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def addresses(smoke_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where `python -m study.ui` says that the trials of each stage are, of a store in which `smoke` has run."""
    folder = tmp_path_factory.mktemp("ui") / "store"
    shutil.copytree(smoke_store, folder)
    open_store(folder)  # which knows then that it was copied, and is shown itself
    flags = ["--store", str(folder), "--port", str(free_port()), "--no-open"]
    process = subprocess.Popen([sys.executable, "-m", "study.ui", *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        shown: dict[str, str] = {}
        while "models" not in shown:
            line = process.stdout.readline()
            assert line, "study.ui has ended"
            if line.startswith("  "):
                name, address = line.split()
                shown[name.removeprefix("digits/")] = address
        yield shown
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def ui(addresses: dict[str, str]) -> str:
    return addresses["models"].partition("#")[0] + "#"


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 4000})
    context.add_init_script(CLOSED)
    opened = context.new_page()
    opened.set_default_timeout(SEEN)
    yield opened
    context.close()


@pytest.fixture
def client(smoke_store: Path) -> mlflow.MlflowClient:
    read_store(smoke_store)
    return mlflow.MlflowClient()


def is_shown(image: playwright.Locator) -> bool:
    """Whether the picture has arrived and was drawn."""
    image.wait_for(timeout=SEEN)
    return bool(image.evaluate("image => image.decode().then(() => image.naturalWidth > 50)"))


def trials_of(client: mlflow.MlflowClient, stage: str, metric: str) -> list[Run]:
    """The trials of a stage, those with the least of a metric first."""
    experiment = client.get_experiment_by_name(f"digits/{stage}").experiment_id
    return list(client.search_runs([experiment], "tags.`trial.study` != ''", order_by=[f"metrics.`{metric}` ASC"]))


def test_a_view_lists_the_trials_the_best_first_with_what_decides(
    addresses: dict[str, str], page: playwright.Page, client: mlflow.MlflowClient
) -> None:
    trials = trials_of(client, "autoencoder", "latent/knee_distance")
    page.goto(addresses["autoencoder"])
    for trial in trials:
        page.get_by_role("link", name=trial.info.run_name, exact=True).wait_for()
    names = [trial.info.run_name for trial in trials]
    assert [link for link in page.locator("[role=row] a").all_inner_texts() if link in names] == names
    heads = [(head.bounding_box(), head.inner_text()) for head in page.get_by_role("columnheader").all()]
    columns = list(dict.fromkeys(text for _, text in sorted((box["x"], text) for box, text in heads if box)))
    wanted = ["registered", "latent/knee_distance", "val/loss", "latent/max_abs_pcc", "latent_dim", "architecture"]
    assert [name for name in columns if name in wanted] == wanted
    page.get_by_role("gridcell", name="digits-autoencoder v1").first.wait_for()
    page.get_by_role("link", name="Model registry").wait_for()  # not the pages for language models
    page.get_by_role("button", name="Trials").click()
    page.get_by_text("Saved views", exact=False).first.wait_for()


def test_the_description_leads_to_charts_of_the_trials_with_their_pictures(
    ui: str, page: playwright.Page, client: mlflow.MlflowClient
) -> None:
    trials = trials_of(client, "autoencoder", "latent/knee_distance")
    page.goto(f"{ui}/experiments/{trials[0].info.experiment_id}/runs?compareRunsMode=TABLE")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="their charts").click()
    charts = opened.value
    charts.set_default_timeout(SEEN)
    for title in ("Objectives", "val/loss against what was searched", "Pictures"):
        charts.get_by_text(title, exact=True).first.wait_for()
    points = charts.locator(".trace.scatter path.point")
    points.nth(2 * len(trials) - 1).wait_for(state="attached")  # two charts at least have a point a trial
    charts.get_by_text("Parallel Coordinates").first.wait_for()
    pictures = charts.locator("img[src*='reconstructions']")
    charts.mouse.move(900, 500)
    for _ in range(40):  # they are loaded when they come into view
        if pictures.count() >= len(trials):
            break
        charts.mouse.wheel(0, 600)
        charts.wait_for_timeout(500)
    for trial in trials:
        assert is_shown(charts.locator(f"img[src*='reconstructions'][src*='{trial.info.run_id}']").first)
    assert charts.get_by_role("slider").first.get_attribute("aria-valuenow") == "1", "the last epoch"


def test_parallel_coordinates_have_numeric_axes(ui: str, page: playwright.Page, client: mlflow.MlflowClient) -> None:
    experiment = client.get_experiment_by_name("digits/latent-gan").experiment_id
    trials = client.search_runs([experiment], "tags.`optuna.state` = 'COMPLETE'")
    ids = ",".join(f'"{trial.info.run_id}"' for trial in trials)
    page.goto(f'{ui}/compare-runs?runs=[{ids}]&experiments=["{experiment}"]')
    axes = page.locator("g.parcoords, g.y-axis")
    axes.first.wait_for()
    shown = " ".join(axes.all_text_contents())
    for name in ("batch_size", "val/fd"):  # the first that differ are chosen
        assert name in shown
    assert "None" not in shown, "one that is no number would make the axis a list of names"


def test_the_page_of_a_registered_version_shows_samples_first_then_figures_beside_floors_and_its_lineage(
    ui: str, page: playwright.Page, client: mlflow.MlflowClient
) -> None:
    version = client.get_model_version_by_alias("digits-conditional-gan", "champion")
    page.goto(f"{ui}/models/digits-conditional-gan/versions/{version.version}")
    first = page.locator("img[src*='get-artifact']").first
    assert is_shown(first)
    assert "figures%2Fsamples.png" in (first.get_attribute("src") or "")
    row = page.locator("tr").filter(has_text="label accuracy, judge 3")
    assert "real images " in row.inner_text()
    lineage = page.locator("tr").filter(has_text="latent-gan").filter(has_text="digits/latent-gan/")
    assert "seeds of settings" in lineage.inner_text()
    page.get_by_text("python -m study.run smoke --data digits").wait_for()
    with page.context.expect_page() as opened:
        lineage.get_by_role("link", name="digits-latent-gan v1").click()
    opened.value.get_by_text("Can a GAN learn the autoencoder's latents").first.wait_for(timeout=SEEN)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_report_reads_at_every_width(
    browser: playwright.Browser, smoke_store: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    out = tmp_path / "report.html"
    assert report.main(["--store", str(smoke_store), "--out", str(out)]) == 0
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(out.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for image in page.locator("img").all():
        assert is_shown(image)

    column = page.locator("#autoencoder .trials")
    place = [head.inner_text() for head in column.locator("th").all()].index("test/loss")
    for order in ("ascending", "descending"):
        column.locator("th").nth(place).get_by_role("button").click()
        cells = column.locator(f"td:nth-child({place + 1})").all_inner_texts()
        assert cells == sorted(cells, key=float, reverse=order == "descending")
        assert len(set(cells)) > 1
    assert complaints == []
    context.close()


def test_claims_fit_a_phone_and_are_told_apart_by_colour_and_word(
    browser: playwright.Browser, store: Store, tmp_path: Path
) -> None:
    verdicts = ("held", "did not hold", "undecided")
    rows = [
        {"figure": f"sample/a_rather_long_name_of_a_measure_{number}", "ours": "0.123 ± 0.004", "reference": None}
        | {"baseline": "0.456 ± 0.007", "claim": "One comes nearer than another, " * 5, "verdict": verdict}
        for number, verdict in enumerate(verdicts)
    ]
    about = {"title": "a study", "description": "", "tags": {}}
    stage = all_stages()[0].name
    with study_run(store, store.experiment(f"tiny/{stage}"), "tiny/0", **about) as parent:
        parent.log_json("outcome", {"champion": "", "rows": rows})
    out = tmp_path / "report.html"
    out.write_text(render(collect("tiny")), encoding="utf-8")
    context = browser.new_context(viewport={"width": 320, "height": 800})
    page = context.new_page()
    page.goto(out.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    words = page.locator(".claims .verdict").all()
    assert [word.inner_text()[2:] for word in words] == list(verdicts)
    assert len({word.evaluate("word => getComputedStyle(word).color") for word in words}) == 3
    page.locator(".claims a").first.click()
    assert page.url.endswith(f"#{stage}")
    context.close()
