"""What a person sees: MLflow's pages and the report in a real browser, Debian's Chromium driven by Playwright."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from commands import addresses as addresses_in
from commands import shown
from mlflow.entities import Run

from study import plots
from study.report.collect import collect
from study.report.page import html
from study.results import Claim, Row
from study.stages import all_stages
from tracking.runs import study_run, trial_run
from tracking.store import Store, open_store, read_store
from tracking.views import View, save_view

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium"),
]
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
# MLflow opens an assistant beside its pages; a user closes it once.
CLOSED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
STAGE = all_stages()[0].name
SEEN = 30_000  # milliseconds within which something must be on the page


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{option}" for option in OPTIONS])
        yield started
        started.close()


@pytest.fixture(scope="module")
def addresses(smoke_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where `python -m study.ui` says that the trials of each stage are, of a store in which `smoke` has run."""
    folder = Path(shutil.copytree(smoke_store, tmp_path_factory.mktemp("ui") / "store"))
    open_store(folder)  # which knows then that it was copied, and is shown itself
    with shown(folder, BROWSER="", DISPLAY="", WAYLAND_DISPLAY="") as (_, said):
        yield {name.removeprefix("digits/"): address for name, address in addresses_in(said).items()}


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 4000})
    context.add_init_script(CLOSED)
    context.set_default_timeout(SEEN)
    yield context.new_page()
    context.close()


@pytest.fixture
def trials(smoke_store: Path) -> list[Run]:
    """The trials of the autoencoder, the best first by the metric by which it was chosen."""
    read_store(smoke_store)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("digits/autoencoder").experiment_id
    (parent,) = client.search_runs([experiment], "tags.study != ''")
    order = [f"metrics.`{parent.data.tags['best.metric']}` ASC"]
    return list(client.search_runs([experiment], "tags.`trial.study` != ''", order_by=order))


def is_shown(image: playwright.Locator) -> bool:
    """Whether the picture has arrived and was drawn."""
    image.wait_for(timeout=SEEN)
    return bool(image.evaluate("image => image.decode().then(() => image.naturalWidth > 50)"))


def test_a_view_lists_best_trials_first(addresses: dict[str, str], page: playwright.Page, trials: list[Run]) -> None:
    names = [trial.info.run_name for trial in trials]
    decides = mlflow.get_run(trials[0].data.tags["mlflow.parentRunId"]).data.tags["best.metric"]
    page.goto(addresses["autoencoder"])
    for name in names:
        page.get_by_role("link", name=name, exact=True).wait_for()
    rows = page.get_by_role("link").all_inner_texts()
    assert [text for text in rows if text in names] == names
    heads = [(head.bounding_box(), head.inner_text()) for head in page.get_by_role("columnheader").all()]
    columns = list(dict.fromkeys(text for _, text in sorted((box["x"], text) for box, text in heads if box)))
    wanted = ["registered", decides, "latent_dim", "architecture"]
    assert [name for name in columns if name in wanted] == wanted
    page.get_by_role("gridcell", name="digits-autoencoder v1").first.wait_for()
    page.get_by_role("link", name="Model registry").wait_for()  # not the pages for language models
    page.get_by_role("button", name="Trials").click()
    page.get_by_text("Saved views", exact=False).first.wait_for()


def test_a_view_shows_the_means_over_seeds(store: Store, tmp_path: Path, page: playwright.Page) -> None:
    experiment = store.experiment("tiny/means")
    with study_run(store, experiment, "tiny/0") as parent:
        for number, loss in enumerate((1.0, 3.0, 8.0, 5.0)):
            about = {"trial.settings": "best: lr 0.1, a'b" if number < 3 else "lr 0.2"}
            with trial_run(parent, f"seed {number}", {"repeat": number}, about) as trial:
                trial.log({"val/loss": loss})
    save_view(experiment, View(("val/loss", "minimize"), ["val/loss"], [], [], {}, repeated=True), "")
    with shown(tmp_path / "store", BROWSER="", DISPLAY="", WAYLAND_DISPLAY="") as (_, said):
        page.goto(addresses_in(said)["tiny/means"].replace("=trials", "=settings"))
        page.get_by_text("Group: best: lr 0.1, a'b").wait_for()
        means = [cell for cell in page.get_by_role("gridcell").all_inner_texts() if "(average)" in cell]
    assert means == ["4 (average)", "5 (average)"]


def test_charts_of_trials_with_pictures(addresses: dict[str, str], page: playwright.Page, trials: list[Run]) -> None:
    server, experiment = addresses["models"].partition("#")[0], trials[0].info.experiment_id
    page.goto(f"{server}#/experiments/{experiment}/runs?compareRunsMode=TABLE")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="their charts").click()
    charts = opened.value
    for title in ("val/loss by parameter", "Pictures"):
        charts.get_by_text(title, exact=True).first.wait_for()
    charts.locator(".trace.scatter path.point").nth(len(trials) - 1).wait_for(state="attached")
    charts.get_by_text("Parallel Coordinates").first.wait_for()
    pictures = charts.locator("img[src*='reconstructions']")
    charts.mouse.move(900, 500)
    for _ in range(40):  # they are loaded when they come into view
        if pictures.count():
            break
        charts.mouse.wheel(0, 600)
        charts.wait_for_timeout(500)
    assert is_shown(pictures.first)


def test_the_page_of_a_version_shows_samples_and_its_lineage(addresses: dict[str, str], page: playwright.Page) -> None:
    page.goto(f"{addresses['models'].partition('#')[0]}#/models/digits-conditional-gan/versions/1")
    first = page.locator("img[src*='get-artifact']").first
    assert (is_shown(first), "figures%2Fsamples.png" in (first.get_attribute("src") or "")) == (True, True)
    page.locator("tr").filter(has_text="label accuracy").first.wait_for()
    page.get_by_text("python -m study.run smoke --data digits").wait_for()
    lineage = page.locator("tr").filter(has_text="digits-latent-gan v1").first
    with page.context.expect_page() as opened:
        lineage.get_by_role("link", name="digits-latent-gan v1").click()
    question = next(stage.question for stage in all_stages() if stage.name == "latent-gan")
    opened.value.get_by_text(question[:40]).first.wait_for(timeout=SEEN)


VERDICTS = {"supported": (-1.0, 0.001, False), "refuted": (1.0, 0.001, False)}
VERDICTS |= {"equivalent": (1.0, 0.9, True), "inconclusive": (1.0, 0.9, False)}
"""Difference, p-value and equivalence of a claim of less."""


@pytest.fixture
def written(store: Store, tmp_path: Path) -> Path:
    """The report on a stage with a claim of each verdict, twelve trials and a wide figure."""
    about = {"title": "a study", "description": "", "tags": {}}
    with study_run(store, store.experiment(f"tiny/{STAGE}"), "tiny/0", **about) as parent:
        for number in range(12):
            with trial_run(parent, f"trial {number}", {"rate": 10 ** -(number % 5)}, {}) as trial:
                trial.log({"test/loss": (7 * number % 12) / 8, "val/loss": 0.5})
        series = {"a": ([1, 2], [3.0, 4.0])}
        parent.log_figure("wide", plots.curves(dict.fromkeys("abc", series), "x", "A wide figure"))
        about = {"text": "One comes nearer than another, " * 5, "better": "less"}
        claims = [Claim(each, -2.0, 2.0, p, (5, 5), same, **about) for each, p, same in VERDICTS.values()]
        rows = [Row(f"judge1/a_rather_long_name_{each.verdict}", "0.1 ± 0.04", claim=each) for each in claims]
        parent.log_json("outcome", {"rows": [asdict(row) for row in rows]})
    out = tmp_path / "report.html"
    out.write_text(html(collect("tiny")), encoding="utf-8")
    return out


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1280, "light")])
def test_the_report_reads_at_every_width(browser: playwright.Browser, written: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(is_shown(image) for image in page.locator("img").all())
    words = page.locator(".claims .verdict").all()
    assert [word.inner_text()[2:] for word in words] == list(VERDICTS)
    assert len({word.evaluate("word => getComputedStyle(word).color") for word in words}) == len(VERDICTS)
    page.locator(".claims a").first.click()
    assert page.url.endswith(f"#{STAGE}")
    trials = page.locator(".trials")
    heads = [head.inner_text().strip() for head in trials.locator("th").all()]
    for order in (False, True):
        trials.locator("th").nth(heads.index("test/loss")).get_by_role("button").click()
        cells = trials.locator(f"td:nth-child({heads.index('test/loss') + 1})").all_inner_texts()
        assert cells == sorted(cells, key=float, reverse=order)
    trials.locator("th").first.get_by_role("button").click()
    assert trials.locator("td:first-child").all_inner_texts() == [f"trial {number}" for number in range(12)]
    assert complaints == []
    page.close()
