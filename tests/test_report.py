"""The report: what its tables say, that it needs nothing else, and that a browser shows it."""

import dataclasses
import json
import platform
import shutil
from collections import Counter
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from harness.environment import describe_environment
from harness.experiment import Answer, Record
from harness.leaderboard import scores_as_dict
from harness.pool_point import write_answers
from harness.pseudo_experiments import draw_nuisances
from harness.results import RunFolder, read_results
from harness.scores import score_results
from harness.settings import make_settings
from harness.test_set import EventFile
from report.blocks import MISSING, flat, number, with_error
from report.plots import draw_run_pulls
from report.rehearsal import rehearsal_section
from report.run import read_run, run_sections
from report.svg import inline, svg_of
from report.verdict import verdict_of
from sage.challenge.nuisances import CHALLENGE
from scripts import asimov, report, toys
from studies.likelihoods import open_weights
from studies.rehearsal import points_of, rehearsal
from studies.rehearsal_report import as_text, draw
from tests import official
from tests.events import FIVE_WEIGHTS
from workshop.errors import UsageError
from workshop.numbers import without_numbers
from workshop.plots import new_figure

ROOT = official.TESTS.parent
GOLDEN = official.DATA / "report_scores.txt"
LABEL = "other data: simulation, closure"
HOSTILE = "<script>alert(1)</script>"


def half_a_digit(text):
    """Half a unit of the last digit that is shown, which the error decides."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


class Page(HTMLParser):
    """Tags with their attributes, and the texts of tables by the name of their figure."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables = [], {}
        self.figure, self.cell = "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "figure":
            self.figure = attributes["id"]
        if tag == "tr":
            self.tables.setdefault(self.figure, []).append([])
        if tag in ("th", "td"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.tables[self.figure][-1].append(self.cell)
            self.cell = None

    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def text(self, name):
        return "".join(" | ".join(row) + "\n" for row in self.tables[name])


def fill(folder, *, flag="converted: PRI_met from int64", environment=None):
    """Write a run of 2 sets of 5 whose answers follow a formula; one answer is flagged."""
    settings = make_settings(2, 5, seed=7, mus=(1.0, 2.0))
    identity = {"format": 1, "data": "d" * 64, "submission": "s" * 64, "seed": 7, **settings.as_official()}
    with RunFolder(folder, identity) as run:
        run.write_settings(settings)
        if environment is not None:
            run.write_environment(environment)
        for job in settings.jobs():
            drawn = draw_nuisances(job.seed, settings.systematics)
            off, half = 0.25 * (job.index - 1.5) + 0.1 * job.set, 0.4 + 0.01 * job.set
            answer = {"mu_hat": job.mu + off, "delta_mu_hat": half}
            answer |= {"p16": job.mu + off - half, "p84": job.mu + off + half}
            flagged = (job.set, job.index) == (1, 0)
            fitted = {}
            for nuisance in CHALLENGE:
                nu = nuisance.nu(float(drawn[nuisance.name])) + 0.1 * (job.index - 1)
                fitted[nuisance.name] = {"nu": nu, "sigma": 0.2, "alpha": nuisance.alpha(nu)[0]}
            result = {"status": "flagged" if flagged else "ok", "flags": [flag] if flagged else []}
            result |= {"nll": 20.0, "nuisances": fitted}
            nuisances = {name: None if value is None else float(value) for name, value in drawn.items()}
            run.append(
                Record(
                    job.set, job.index, job.seed, job.mu, nuisances, 900_000, answer, 1.0, 0.5 + 0.1 * job.index, result
                )
            )
        run.write_results(settings, 60.0)
    return folder


def make(results, output, *more, name="SAGE", label=LABEL):
    given = ["--results", results, "--output", output, "--name", name, "--label", label, *more]
    return report.main([str(value) for value in given])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = official.events_folder(tmp_path_factory.mktemp("events"))
    environment = describe_environment(EventFile(folder, 200), workers=3)
    return fill(tmp_path_factory.mktemp("results") / "run", environment=environment)


@pytest.fixture(scope="module")
def page_file(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert make(results, path) == 0
    return path


@pytest.fixture(scope="module")
def page(page_file):
    return Page(page_file.read_text(encoding="utf-8"))


def test_score_table(page, results):
    """The text as first written by this page; the numbers of the run against the official scores."""
    assert page.text("leaderboard") == GOLDEN.read_text(encoding="utf-8")
    found = read_results(results)
    bootstrap = scores_as_dict(score_results(found), found)["bootstrap"]
    row = next(row for row in page.tables["leaderboard"] if row[0] == "SAGE")
    for cell, key in zip(row[1:4], ("coverage", "interval", "quantiles_score"), strict=True):
        for text, part in zip(cell.replace("−", "-").split(" ± "), ("mean", "std"), strict=True):
            assert float(text) == pytest.approx(bootstrap[key][part], abs=half_a_digit(text))
    assert [attributes for tag, attributes in page.tags if tag == "tr" and "class" in attributes] == [
        {"class": "marked"},
        {"class": "ruled"},
    ]


def test_verdict_is_the_first_line(page, page_file):
    text = page_file.read_text(encoding="utf-8")
    assert text.index('class="verdict well"') < text.index('class="numbers"')
    assert "All is well: all 4 checks hold (run 4)." in text
    numbers = json.loads(page_file.with_suffix(".json").read_text())
    assert numbers["verdict"] == {"ok": True, "line": "All is well: all 4 checks hold (run 4).", "failed": []}


def test_verdict_names_what_does_not_hold(results, tmp_path):
    run = read_run(results, "SAGE", LABEL, open_weights(ROOT / "weights"))
    shifted = [dataclasses.replace(one, mu=one.mu - 2.0) for one in run.results.sets]
    wrong = dataclasses.replace(
        run,
        results=dataclasses.replace(run.results, sets=tuple(shifted), statuses={"ok": 8, "fallback": 2}),
        pulls={"mu": 5.0 + run.pulls["mu"]},
    )
    found = verdict_of(wrong)
    assert not found.ok
    assert found.line == "Not all is well: 3 of 4 checks do not hold (run 4)."
    assert [text.partition(" is ")[0] for text in found.failed[1:]] == ["run: coverage", "run: mean pull of mu"]
    assert "2 answers are fallbacks" in found.failed[0]
    contents = {
        "analysis.json": {"checks": [{"name": "pull of tes", "ok": False}, {"name": "coverage", "ok": True}]},
        "check.json": {"comparisons": 16, "beyond": ["ttbar in all against the sample: +3.4 standard deviations"]},
        "postfit.json": {"twice_nll": 90.0, "bins": 33},
        "rehearsal.json": {"submissions": {"first": {"checks": [{"name": "pull mean", "ok": False}]}}},
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = verdict_of(run, toys=tmp_path, check=tmp_path, postfit=tmp_path, rehearsal=tmp_path)
    assert found.line.startswith("Not all is well: 4 of 24 checks do not hold (run 4, toys 2, tables 16, fit 1")
    assert [text.partition(": ")[0] for text in found.failed] == ["toys", "tables", "fit", "rehearsal"]
    (tmp_path / "postfit.json").write_text(json.dumps(contents["postfit.json"] | {"twice_nll": 30.0}))
    assert verdict_of(run, postfit=tmp_path).ok
    (tmp_path / "postfit.json").write_text("{}")
    with pytest.raises(UsageError, match="postfit"):
        verdict_of(run, postfit=tmp_path)


def test_section_on_a_rehearsal(results, tmp_path):
    """From a rehearsal of two submissions, of which one tells what the whole pool does to it."""
    records = made_up_records()
    mus = sorted({record.mu for record in records})
    folder = tmp_path / "rehearsal"
    for name in ("first", "second"):
        shutil.copytree(results, folder / name)
    points = points_of(mus)
    answer = Answer({"mu_hat": 0.0, "delta_mu_hat": 0.4, "p16": 0.0, "p84": 0.8}, 0.5, None)
    moved = {p: dataclasses.replace(answer, values=answer.values | {"mu_hat": p.mu + 0.05}) for p in points}
    write_answers(folder / "first", points, moved)
    origin = {"first": {"shift": 0.04, "tables_error": 0.1, "sample_error": 0.08}}
    content, seconds = rehearsal(folder, {"first": records, "second": records}, mus, origin)
    (folder / "rehearsal.json").write_text(json.dumps({"seed": 7} | content))
    (folder / "seconds.json").write_text(json.dumps(seconds))
    draw(content, "first", folder / "coverage_first")
    section = rehearsal_section(folder)
    tables = {block.name: block for block in section.blocks}
    methods = tables["rehearsal-methods"]
    assert [row[0] for row in methods.rows] == ["first", "second", "HEPHY", "IBRAHIME", "HZUME"]
    assert {len(row) for row in methods.rows} == {len(methods.header)}
    assert methods.marked == (0, 1)
    assert methods.ruled == 2
    for name in ("rehearsal-sets", "rehearsal-bins", "rehearsal-checks", "rehearsal-differences"):
        assert {len(row) for row in tables[name].rows} == {len(tables[name].header)}
    assert [row[5] for row in tables["rehearsal-sets"].rows] == ["+0.050", "+0.050"]
    assert "moves its mu_hat by +0.050" in section.text
    assert "±0.080" in section.text
    assert "rehearsal-coverage_first" in tables
    text = as_text(content, seconds)
    assert "expected +0.040" in text
    assert "at mu = 1, tes 1.01" in text


def made_up_records():
    """The records of the made-up run, in order."""
    rng = np.random.default_rng(1)
    out = []
    for place, mu in enumerate((1.0, 2.0)):
        for index in range(5):
            values = {"mu_hat": mu + 0.3 * rng.normal(), "delta_mu_hat": 0.3}
            values |= {"p16": values["mu_hat"] - 0.3, "p84": values["mu_hat"] + 0.3}
            nuisances = {nuisance.name: float(rng.uniform(0.9, 1.1)) for nuisance in CHALLENGE}
            out.append(Record(place, index, 7, mu, nuisances, 100, values, 1.0, 0.5))
    return out


def test_pulls_answers_and_timings(page):
    pulls = {row[0]: row[1:] for row in page.tables["pulls-table"]}
    # (index - 1) / 2 in each set of 5, and (0.25 (index - 1.5) + 0.1 set) / half
    values = np.tile((np.arange(5) - 1) / 2, 2)
    of_mu = np.concatenate([(0.25 * (np.arange(5) - 1.5) + off) / half for off, half in ((0.0, 0.40), (0.1, 0.41))])
    for name, expected in (("mu", of_mu), ("tes", values), ("bkg_scale", values)):
        n, mean, width = pulls[name]
        assert n == "10"
        for text, value in ((mean, expected.mean()), (width, expected.std(ddof=1))):
            shown = text.split(" ± ")[0]
            assert float(shown) == pytest.approx(value, abs=half_a_digit(shown))
    assert "soft_met" not in pulls
    assert page.tables["statuses"][1:] == [["flagged", "1"], ["ok", "9"]]
    assert page.tables["flags"][1:] == [["converted: PRI_met from int64", "1"]]
    assert page.tables["timings"][1] == ["predict", "0.700", "0.900", "0.900", "7.000"]


def test_how_it_was_run(page):
    rows = dict(page.tables["settings"])
    assert rows["seed"] == "7"
    assert rows["true mu by set"] == "1.0000, 2.0000"
    assert rows["data file"] == "FAIR_Universe_HiggsML_data.parquet"
    assert rows["rows"] == "500, of which the test part is the first 200"
    assert rows["worker processes"] == "3"
    versions = dict(page.tables["versions"])
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["python"] == platform.python_version()


def test_weights_are_described(page):
    manifest = json.loads((ROOT / "weights" / "manifest.json").read_text())
    assert {row[0]: row[2] for row in page.tables["files"][1:]} == {
        name: entry["sha256"] for name, entry in manifest["files"].items()
    }
    regions = {row[0]: row for row in page.tables["regions"][1:]}
    for region in manifest["region_set"]["regions"]:
        assert regions[region["name"]][3] == str(len(region["edges"]) - 1)
    assert dict(page.tables["origin"])["created_with"] == manifest["origin"]["created_with"]


def test_page_stands_alone(page, page_file):
    text = page_file.read_text(encoding="utf-8")
    assert len(text.encode()) < 3 << 20
    tags = Counter(tag for tag, _ in page.tags)
    assert not {"script", "iframe", "object", "embed", "form"} & set(tags)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert {"scores", "coverage", "pulls", "answers", "asimov", "weights", "how"} == links <= set(ids)
    for tag, attributes in page.tags:
        if tag == "use":
            assert attributes["href"][1:] in ids


def test_json_beside_the_page_holds_the_tables(page, page_file):
    content = json.loads(page_file.with_suffix(".json").read_text(encoding="utf-8"))
    tables = {block["name"]: block for section in content["sections"] for block in section["blocks"]}
    assert [tables["leaderboard"]["header"], *tables["leaderboard"]["rows"]] == page.tables["leaderboard"]


def test_texts_are_escaped(tmp_path):
    results = fill(tmp_path / "run", flag=f"{HOSTILE} & more", environment={"versions": {HOSTILE: "1"}})
    assert make(results, tmp_path / "report.html", name=HOSTILE, label='"><img src=x onerror=alert(1)>') == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert "script" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        if tag == "img":
            assert set(dict(attributes)) == {"src", "alt"}
            assert dict(attributes)["src"].startswith("data:image/svg+xml;base64,")
    assert text.count("<title>&lt;script&gt;alert(1)&lt;/script&gt;: report</title>") == 1
    assert any(row[0] == HOSTILE and row[-1] == '"><img src=x onerror=alert(1)>' for row in found.tables["leaderboard"])
    assert found.tables["flags"][1] == [without_numbers(f"{HOSTILE} & more"), "1"]
    assert found.tables["versions"][1] == [HOSTILE, "1"]


def test_without_input_there_is_no_section(results, tmp_path):
    """The official program leaves nothing but its result files."""
    bare = tmp_path / "official"
    shutil.copytree(results, bare)
    for name in ("experiments.jsonl", "run.json", "environment.json"):
        (bare / name).unlink()
    bundle = open_weights(FIVE_WEIGHTS)
    names = [section.name for section in run_sections(read_run(bare, "SAGE", "local", bundle))]
    assert names == ["scores", "coverage", "pulls"]
    run = read_run(bare, "SAGE", "local", bundle)
    assert list(run.pulls) == ["mu"]
    assert not run.environment


def test_many_experiments_do_not_make_the_page_large(results):
    run = read_run(results, "SAGE", "local", open_weights(FIVE_WEIGHTS))
    one = run.results.sets[0]
    many = dataclasses.replace(
        one, **{key: getattr(one, key) * 60 for key in ("mu_hats", "delta_mu_hats", "p16", "p84")}
    )
    large = dataclasses.replace(run.results, sets=(many,) * 20)
    section = run_sections(dataclasses.replace(run, results=large, scores=score_results(large)))[1]
    assert sum(len(block.svg) for block in section.blocks) < 1 << 20
    assert "Shown: the first 100 experiments of the first 9 sets" in section.blocks[1].caption


def test_studies_from_their_folders(results, tmp_path, page):
    assert asimov.main(["--output", str(tmp_path / "asimov"), "--points", "11"]) == 0
    toy_options = ["--toys", "40", "--mu", "0.5", "2", "--output", str(tmp_path / "toys")]
    assert toys.main(toy_options) == 0
    more = ("--asimov", tmp_path / "asimov", "--toys", tmp_path / "toys")
    assert make(results, tmp_path / "report.html", *more) == 0
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    # The folder is of the same data set as what the report studies by itself.
    for name in ("impacts-table", "breakdown", "correlation", "changes"):
        assert found.tables[name] == page.tables[name]
    assert [row[1] for row in found.tables["toys-mu"][1:]] == ["20", "20"]
    assert {"toys-coverage", "toys-pulls", "asimov-scan", "asimov-impacts"} <= set(found.ids())
    assert "toys" not in page.ids()


def test_comparison_and_postfit(results, tmp_path):
    """The files hold the entries that scripts.compare and scripts.postfit write; their pictures may be missing."""

    def entry(coverage, seconds):
        pairs = {"coverage": (coverage, 0.01), "predict_seconds": (seconds, None)}
        return {name: {"value": value, "error": error} for name, (value, error) in pairs.items()}

    submissions = {
        HOSTILE: {"statistics": entry(0.68, 0.5), "differences": entry(0.0, 0.0)},
        "other": {"statistics": entry(0.5, 2.0), "differences": entry(-0.18, 1.5)},
    }
    content = {"experiments": 50, "bootstraps": 1000, "submissions": submissions}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    states = {"before": {"integral": 90.0, "integral_sigma": 5.0, "chi2": 4.0}}
    states["after"] = {"integral": 101.0, "integral_sigma": 3.0, "chi2": 1.5}
    content = {"mu": 1.0, "seed": 1, "mu_hat": 1.1, "p16": 0.6, "p84": 1.6, "twice_nll": 3.0, "bins": 2}
    content["regions"] = {"rest": {"observed": [40.0, 60.0], **states}}
    (tmp_path / "postfit.json").write_text(json.dumps(content))
    assert make(results, tmp_path / "report.html", "--compare", tmp_path, "--postfit", tmp_path) == 0
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert found.tables["compare-table"] == [
        ["quantity", HOSTILE, "other"],
        ["coverage", "0.680 ± 0.010", "0.500 ± 0.010"],
        ["predict seconds", "0.5000", "2.0000"],
    ]
    assert found.tables["compare-differences"][1] == ["coverage", "−0.180 ± 0.010"]
    assert found.tables["postfit-table"][1] == ["rest", "100", "90 ± 5", "4.0", "101 ± 3", "1.5", "2"]


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "no analysis.json"), ("{", "not JSON"), ("[1]", "holds a list"), ('{"toys": 1}', "entry 'coverage'")],
)
def test_damaged_study(results, tmp_path, content, named, capsys):
    if content is not None:
        (tmp_path / "analysis.json").write_text(content)
    assert make(results, tmp_path / "report.html", "--toys", tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(tmp_path) in error
    assert named in error
    assert not (tmp_path / "report.html").exists()


def test_pictures_are_images():
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" onload="alert(1)"><script>alert(2)</script></svg>'
    found = inline(svg, "one", 'a "title" <b>')
    assert found.startswith('<img src="data:image/svg+xml;base64,')
    assert found.endswith('" alt="a &#34;title&#34; &lt;b&gt;">')
    assert "alert" not in found
    for content in (b"no picture", b"<html/>", b'<svg xmlns="http://www.w3.org/2000/svg"/>'):
        with pytest.raises(UsageError, match="picture 'one' is"):
            inline(content, "one", "title")


def test_same_figure_gives_same_picture():
    def drawn():
        figure, axes = new_figure(2.0, 2.0)
        axes.plot([0, 1], [0, 1], "o-", clip_on=True)
        return svg_of(figure)

    assert drawn() == drawn()


def test_numbers_as_text():
    assert number(-0.12345, 2) == "−0.12"
    assert number(0.5, 1, sign=True) == "+0.5"
    assert number(None) == number(float("nan")) == MISSING
    assert with_error(1.0, None, 1) == with_error(1.0, float("nan"), 1) == "1.0"
    assert with_error(1.0, 0.25, 2) == "1.00 ± 0.25"
    assert flat({"a": {"b": None, "c": [1, 2]}, "d": 3}) == (("a.b", "none"), ("a.c", "1, 2"), ("d", "3"))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as driver:
        # A container's root user cannot have the sandbox; the page is our own.
        yield driver.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_browser_shows_the_page(browser, page_file, width, scheme):
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    messages, requests = [], []
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(Path(page_file).as_uri())
    assert messages == []
    assert requests == [Path(page_file).as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    sizes = shown.evaluate("[...document.querySelectorAll('.plot img')].map(e => e.getBoundingClientRect().height)")
    assert len(sizes) == 5
    assert min(sizes) > 100
    ink, paper = (
        [int(part) for part in shown.evaluate(f"getComputedStyle(document.body).{key}")[4:-1].split(",")]
        for key in ("color", "backgroundColor")
    )
    assert (sum(ink) > sum(paper)) == (scheme == "dark")
    assert abs(sum(ink) - sum(paper)) > 3 * 180
    shown.close()


def test_settings_of_others_do_not_reach_pictures():
    import matplotlib as mpl

    def draw():
        figure = draw_run_pulls({"mu": np.array([0.5, -1.0]), "tes": np.array([])})
        return svg_of(figure)

    expected = draw()
    foreign = {"text.usetex": True, "savefig.dpi": 7, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none"}
    with mpl.rc_context(foreign):
        assert draw() == expected
        assert mpl.rcParams["text.usetex"]
