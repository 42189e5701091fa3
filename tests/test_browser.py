"""What a person sees: MLflow's pages and the report in a real browser, Debian's Chromium driven by Playwright."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from servers import free_port

from study.report import __main__ as report
from study.report.collect import collect
from study.report.page import render
from study.stages import all_stages
from tracking.runs import study_run
from tracking.store import Store, read_store

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium")
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
# MLflow opens with the pages for language models and an assistant; a user chooses "Model training" once.
TRAINING = """
localStorage.setItem("mlflow.workflowType_v1", JSON.stringify("machine_learning"));
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
def ui(smoke_store: Path) -> Iterator[str]:
    """The address of `mlflow ui`, as the study's last line starts it, on a store in which `smoke` has run."""
    port = free_port()
    database = ["--backend-store-uri", f"sqlite:///{smoke_store}/mlflow.db"]
    command = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *database]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "mlflow ui does not answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/#"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 4000})
    context.add_init_script(TRAINING)
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


def test_the_comparison_of_a_study_shows_trials_metrics_and_images(
    ui: str, page: playwright.Page, client: mlflow.MlflowClient
) -> None:
    experiment = client.get_experiment_by_name("digits/autoencoder").experiment_id
    *trials, parent = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    page.goto(f"{ui}/experiments/{experiment}/runs?compareRunsMode=CHART")
    page.get_by_text("How many numbers does an image need?").first.wait_for()
    row = page.get_by_role("row").filter(has_text=parent.info.run_name[:10])
    row.get_by_role("button").first.click()  # unfolds the trials
    for trial in trials:
        page.get_by_role("link", name=trial.info.run_name, exact=True).wait_for()
    page.get_by_text("test/loss", exact=True).first.wait_for()
    page.get_by_text("latent/max_abs_pcc", exact=True).first.wait_for()
    pictures = page.locator("img[src*='reconstructions']")
    page.mouse.move(900, 500)
    for _ in range(40):  # the pictures come after all charts, and are loaded when they come into view
        if pictures.count() >= len(trials):
            break
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(500)
    for trial in trials:
        assert is_shown(page.locator(f"img[src*='reconstructions'][src*='{trial.info.run_id}']").first)
    assert page.get_by_role("slider").count() > 0


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


def test_a_registered_version_shows_where_it_comes_from_and_a_picture(
    ui: str, page: playwright.Page, client: mlflow.MlflowClient
) -> None:
    version = client.get_model_version_by_alias("digits-conditional-gan", "champion")
    page.goto(f"{ui}/models/digits-conditional-gan/versions/{version.version}")
    for text in ("Trial 0 of digits/conditional-gan/", "input.autoencoder models:/digits-autoencoder/1", "sample/fd: "):
        page.get_by_text(text).first.wait_for()
    assert is_shown(page.locator(f"img[src*='samples.png'][src*='{version.run_id}']"))


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
