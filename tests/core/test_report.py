"""The report: complete, self-contained, and safe to show whatever the titles hold."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.records import Candidates, Catalogue, Examples, Pairs, SeenItems, Sequences, Split
from rosepo_core.contracts.sections import EvaluationOptions
from rosepo_core.evaluation import results
from rosepo_core.evaluation.calibration import ReliabilityBin
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.confidence import confidences
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.report import charts, figures
from rosepo_core.report.page import ReportData, ReportRound, render, render_seeds, render_side_by_side, shown_users
from rosepo_core.testing import SilentReporter

HOSTILE = "<script>alert('x')</script> & \"more\" <img src=http://evil.example/x.png>"
USERS, ITEMS = 30, 40
METRICS = {
    name: load_plugins().create("metric", f"rosepo/{name}", {})
    for name in ("hr", "ndcg", "mrr", "arp", "popularity-lift", "aplt", "coverage", "gini")
}


class Page(HTMLParser):
    """Elements, attributes, ids and text of a page; fails on tags that do not match."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.ids, self.open, self.texts = [], [], set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]
        self.ids |= {value for name, value in attrs if name == "id"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))


def make_split():
    rng = np.random.default_rng(3)
    sequences = Sequences(
        np.concatenate([rng.permutation(ITEMS)[:12] for _ in range(USERS)]).astype(np.int32),
        np.arange(USERS + 1) * 12,
    )
    test = Examples.of(sequences, np.arange(USERS, dtype=np.int32), np.full(USERS, 11, dtype=np.int32))
    train = sequences.prefix(np.full(USERS, 10))
    popularity = np.bincount(train.items, minlength=ITEMS).astype(np.int64)
    titles = tuple(HOSTILE if item == test.target[0] else f"Title {item} (1995)" for item in range(ITEMS))
    catalogue = Catalogue(tuple(map(str, range(ITEMS))), titles, popularity, pl.DataFrame())
    return Split(
        tuple(f"u{user}" for user in range(USERS)), catalogue, train, test, test, SeenItems.of(sequences, ITEMS)
    )


@pytest.fixture(scope="module")
def split():
    return make_split()


def tables(models, split, examples, candidates, options):
    """The evaluation of models that all rank."""
    scores = {name: results.score_model(name, score, examples, candidates) for name, score in models.items()}
    return results.summarize(scores, split, examples, candidates, options, METRICS, SilentReporter())


@pytest.fixture(scope="module")
def result(split):
    rng = np.random.default_rng(5)
    column = rng.integers(10, size=USERS)
    items = np.stack([rng.choice(np.setdiff1d(np.arange(ITEMS), target), 10, False) for target in split.test.target])
    items[np.arange(USERS), column] = split.test.target
    candidates = Candidates(items.astype(np.int32), column.astype(np.int32))

    def knows(share):
        def score(examples, items):
            lucky = (np.arange(len(items)) < share * len(items))[:, None]
            return (10.0 * (lucky & (items == examples.target[:, None])) + items % 7).astype(np.float32)

        return score

    models = {
        "popularity": results.popularity_scores(split),
        "base": knows(0),
        "sft": knows(0.5),
        "aligned": knows(0.5),
        "<b>mine</b>": knows(1),
    }
    return tables(models, split, split.test, candidates, EvaluationOptions(resamples=500))


@pytest.fixture(scope="module")
def full(split, result):
    rejected = np.array([[1, -1], [2, 3]], dtype=np.int32)
    eps = np.array([[0.25, 0.9], [0.25, 0.4]], dtype=np.float32)
    pairs = Pairs(
        split.test.take(np.array([0, 1])), rejected, eps, np.zeros(2, np.float32), np.zeros((2, 2), np.float32)
    )
    return ReportData(
        title=f"toy {HOSTILE}",
        command="rosepo train --loss rosepo",
        summary={"Dataset": "toy", HOSTILE: HOSTILE},
        config='[model]\nname = "</pre><script>"',
        evaluations=(result,),
        split=split,
        rounds=(
            ReportRound(
                sft_log=[{"loss": 3.0 - step / 10, "step": step} for step in range(1, 11)]
                + [{"train_loss": 2.5, "step": 10}],
                alignment_log=[
                    {
                        "loss": 0.69 - step / 1000,
                        "rewards/margins": step / 10,
                        "rewards/accuracies": 0.6,
                        "logps/chosen": -20.0 - step,
                        "logps/rejected": -21.0 - 2 * step,
                        "step": step,
                    }
                    for step in range(1, 41)
                ],
                pairs=pairs,
            ),
        ),
        seconds={"sft": 125.0, "aligned": 12.34},
        environment={"torch": "2.13.0"},
        notes=(f"A note on {HOSTILE}.",),
    )


def with_round(data, **changed):
    """The data of a run with other data in its only round."""
    (only,) = data.rounds
    return replace(data, rounds=[replace(only, **changed)])


def test_every_section_is_there(full):
    page = Page(render(full))
    assert page.ids == {"results-1", "training", "preferences", "users", "time", "run"}
    titles = {title: title in page.text for title in ("SFT: loss", "Alignment: loss", "Alignment: reward margin")}
    titles |= {title: title in page.text for title in ("Alignment: reward accuracy", "Alignment: log-probabilities")}
    titles |= {title: title in page.text for title in ("Smoothing factor", "Popularity of chosen and rejected")}
    titles |= {title: title in page.text for title in ("NDCG@10 against popularity", "12 users", "2.1 min", "12.3 s")}
    titles["NDCG@10 by popularity of the target"] = "NDCG@10 by popularity of the target" in page.text
    assert all(titles.values()), titles
    assert page.tags.count("svg") == 2 + 5 + 2
    assert page.tags.count("article") == 12


SCORED = ("", " mean", " prior-corrected", " fusion")


@pytest.fixture(scope="module")
def scored(split, result):
    """Each model by each score. By fusion, the last model knows a third of the targets and is sure of them."""
    rng = np.random.default_rng(7)
    candidates = result.candidates
    names = [
        "popularity",
        "oracle",
        "oracle fusion",
        *(f"{name}{score}" for name in ("base", "sft") for score in SCORED),
    ]
    names += [f"aligned{score}" for score in SCORED]
    scores = {}
    for name in names:
        values = rng.normal(size=candidates.items.shape)
        values[np.arange(USERS), candidates.target_column] += (
            8.0 * (np.arange(USERS) < 10) if "aligned" in name else 0
        )
        total = np.log(np.exp(values).sum(axis=1, keepdims=True))
        scores[name] = (values - total if "fusion" in name else values).astype(np.float32)
    options = EvaluationOptions(resamples=200)
    found = results.summarize(scores, split, split.test, candidates, options, METRICS, SilentReporter())
    logit = ConditionalLogit(
        ("likelihood", "oracle"),
        (2.0, 1.0),
        (0.5, -0.25),
        (-0.125, -0.5),
        (1.125, 0.0),
        1234,
        (("prior", "of this"),),
    )
    alone = ConditionalLogit(("oracle",), (1.0,), (0.75,), (0.5,), (1.0,), 1234)
    fusions = {"oracle fusion": alone, **{f"{name} fusion": logit for name in ("base", "sft", "aligned")}}
    return replace(found, fusions=fusions)


@pytest.fixture(scope="module")
def scored_page(full, scored):
    pooled = {
        f"{name}{score}": 0.5 + 0.125 * (name == "aligned") for name in ("base", "aligned") for score in SCORED[1:]
    }
    second = replace(scored, protocol="catalogue", candidates=None, pool_recall=pooled)
    return render(replace(full, evaluations=(scored, second)))


def tables_of(page):
    """The text of each cell of each table of results, without intervals."""
    found = []
    for table in re.findall(r'<table class="results.*?</table>', page, re.S):
        rows = re.findall(r"<tr.*?</tr>", table, re.S)
        texts = [re.findall(r"<t[hd].*?</t[hd]>", re.sub(r"<small>.*?</small>", "", row), re.S) for row in rows]
        found.append([[Page(f"<table><tr>{cell}</tr></table>").text.strip() for cell in row] for row in texts])
    return found


def test_the_main_metric_is_shown_by_model_and_score(scored_page, scored):
    by_score = tables_of(scored_page)[0]
    assert by_score[0] == ["Model", "Likelihood", "Mean", "Prior-corrected", "Fusion"]

    def shown(name):
        return f"{scored.models[name].metrics['ndcg@10']:.3f}"

    assert by_score[1:3] == [
        ["Popularity", shown("popularity"), "", "", ""],
        ["Oracle", shown("oracle"), "", "", shown("oracle fusion")],
    ]
    assert by_score[5] == ["Aligned", *(shown(f"aligned{score}") for score in SCORED)]


def test_the_large_table_has_likelihood_and_the_score_in_use(scored_page, scored):
    large = tables_of(scored_page)[1]
    assert large[0] == ["Metric", "Popularity", "Oracle", "Base", "SFT", "Aligned"]
    assert large[1] == ["Likelihood", "Fusion"] * 4
    (row,) = (row for row in large if row[0].startswith("MRR"))
    names = [
        "popularity",
        *(f"{name}{score}" for name in ("oracle", "base", "sft", "aligned") for score in ("", " fusion")),
    ]
    assert row[1:] == [f"{scored.models[name].metrics['mrr']:.3f}" for name in names]
    assert scored_page.count('style="--columns: 9"') == 2
    # 180 and nine times 92, and 48 beside the table, fit into the page.
    assert "(min-width: 621px) and (max-width: 1055px) { #results-1 .sideways" in scored_page


def test_weights_have_intervals_and_what_was_left_out_is_told(scored_page):
    assert tables_of(scored_page)[2] == [
        ["Feature", "Oracle fusion", "Base fusion", "SFT fusion", "Aligned fusion"],
        ["log p(title | history)", "", "+0.50", "+0.50", "+0.50"],
        ["score of the oracle", "+0.75", *["\N{MINUS SIGN}0.25"] * 3],
        ["validation users", *["1,234"] * 4],
    ]
    assert "<small>.50 to 1.00</small>" in scored_page
    text = Page(scored_page).text
    assert "Left out of Base fusion and SFT fusion and Aligned fusion: log p(title), because of this." in text
    # The catalogue's weights are the same.
    assert len(tables_of(scored_page)) == 3 + 2
    assert "The weights of fusion are those under candidates-10." in text


def test_the_recall_of_pools_is_told(scored_page):
    assert "pool recall) is a limit to HR: Base 50.0%, Aligned 62.5%." in Page(scored_page).text


def test_sentences_are_about_the_score_in_use(scored_page):
    said = re.findall(r'<p class="verdict">(.*?) (?:is|does)(.*?) in NDCG@10', scored_page)
    compared = [(first, rest.rpartition("from ")[2].rpartition("above ")[2]) for first, rest in said]
    assert compared == [
        ("SFT fusion", "Base fusion"),
        ("Aligned fusion", "SFT fusion"),
        ("Aligned fusion", "Aligned"),
        ("Aligned fusion", "Oracle fusion"),
    ]


def test_weights_over_seeds_are_means(full, scored):
    # Fusions of the second seed have all weights larger by 0.2, and one has a feature less.
    moved = {
        name: replace(logit, weights=tuple(each + 0.2 for each in logit.weights))
        for name, logit in scored.fusions.items()
    }
    moved["sft fusion"] = ConditionalLogit(("oracle",), (1.0,), (-0.05,), (-1.0,), (1.0,), 1000)
    page = render_seeds("two", [{0: scored, 1: replace(scored, fusions=moved)}], {"seed 0": full, "seed 1": full})
    assert tables_of(page)[2] == [
        ["Feature", "Oracle fusion", "Base fusion", "SFT fusion", "Aligned fusion"],
        ["log p(title | history)", "", "+0.60", "", "+0.60"],
        ["score of the oracle", "+0.85", *["\N{MINUS SIGN}0.15"] * 3],
        ["validation users", "1,234", "1,234", "1,000", "1,234"],
    ]
    # Student's interval of two seeds: the mean, 0.6, and 12.706 x 0.1.
    assert "<small>\N{MINUS SIGN}.67 to 1.87</small>" in page
    assert "interval over seeds" in re.sub(r"&nbsp;|\s+", " ", page)


def test_seeds_have_the_same_tables(full, scored):
    rows = {name: each for name, each in scored.models.items() if not name.endswith("fusion")}
    fewer = replace(scored, models=rows, comparisons=tuple(each for each in scored.comparisons if each.model in rows))
    page = render_seeds("two seeds", [{0: fewer, 1: fewer}], {"seed 0": full, "seed 1": full})
    by_score, large = tables_of(page)
    assert by_score[0] == ["Model", "Likelihood", "Mean", "Prior-corrected"]
    assert large[1] == ["Likelihood", "Prior-corrected"] * 3
    assert "The table of all metrics has likelihood and prior-corrected only." in Page(page).text
    said = re.findall(r'<p class="verdict">(.*?) (?:is|does)', page)
    assert said == ["SFT prior-corrected", "Aligned prior-corrected", "Aligned prior-corrected"]


def test_charts_and_lists_show_few_models(scored_page, scored, split):
    charts_of = {
        each.split("</h3>")[0]: each.split("</figure>")[0] for each in scored_page.split("<figure>\n  <h3>")[1:]
    }
    legend = re.findall(r"</i>([^<]+)</span>", charts_of["NDCG@10 by popularity of the target"])
    assert legend == ["Popularity", "Oracle", "Aligned", "Aligned fusion"]
    assert charts_of["NDCG@10 against popularity"].count("<circle") == 4
    assert [name for name, *_ in shown_users(scored, split, 4)[0].models] == legend
    # Points of one model have one colour; those by another score are open.
    assert '<i class="swatch rose"></i>Aligned<' in scored_page
    assert '<i class="swatch rose open"></i>Aligned fusion<' in scored_page


def test_confidence_has_its_charts_where_candidates_are_ranked(scored_page, scored):
    first, second = scored_page.split('<section id="results-2"')
    assert first.count("Risk against coverage</h3>") == 1
    assert "Risk against coverage" not in second.split("</section>")[0]
    text = re.sub(r"\s+", " ", first)
    found = confidences(scored)
    curve = found["aligned fusion"].curves[0]
    interval = " to ".join(f"{end:.3f}" for end in curve.aurc_interval)
    assert f"Aligned fusion {curve.aurc:.3f} ({interval}; {curve.risk:.3f}). Coverages of fewer than 10 users" in text
    calibrated = found["oracle fusion"].calibration
    assert f"Expected calibration error, lower is better: Oracle fusion {calibrated.ece:.3f}" in text
    chart = first.split("Risk against coverage</h3>")[1].split("</figure>")[0]
    assert re.findall(r'<path class="(\w+)"', chart) == ["gold", "blue", "teal", "rose"]


def test_a_hostile_title_is_shown_and_never_run(full):
    text = render(full)
    page = Page(text)
    assert {"script", "img", "b", "iframe", "object", "a"}.isdisjoint(page.tags)
    assert "alert('x')" in page.text
    assert "<b>mine</b>" in page.text
    assert text.count("<script") == 0


def test_nothing_is_asked_of_the_network(full):
    page = Page(render(full))
    assert not [
        each for each in page.attributes if each[1] in ("src", "href", "srcset", "xlink:href", "action", "data")
    ]
    style = render(full).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_numbers_of_the_table(full, result):
    page = Page(render(full))
    for name in ("hr@1", "ndcg@10", "mrr", "gini@10"):
        assert f"{result.models['aligned'].metrics[name]:.3f}" in page.text
    low, high = result.models["sft"].intervals["hr@5"]
    assert f"{low:.3f}\N{EN DASH}{high:.3f}".replace("0.", ".") in page.text
    rows = re.findall(r'<tr><th scope="row">([^<]+)<span class="arrow">(.*?)</tr>', render(full), re.S)
    marked = {name: ["best" in cell for cell in cells.split("<td")[1:]] for name, cells in rows}
    # The last model knows every target. Among ten candidates everyone is in the first ten, so HR@10 tells nothing.
    for name in ("HR@1", "HR@5", "NDCG@5", "NDCG@10", "MRR"):
        assert marked[name][-1], name
    assert marked["HR@10"] == [False] * 5
    # Popularity recommends the most popular items, so it is never marked in ARP, where lower is better.
    assert marked["ARP@1"][0] is False
    assert any(marked["ARP@1"])
    # Neither direction is better.
    assert marked["Popularity lift@1"] == [False] * 5
    assert "Accuracy" in page.text
    assert "Popularity bias" in page.text
    assert "How unevenly items are recommended." in page.text


def test_verdicts_compare_user_by_user(full):
    page = Page(render(full))
    assert "SFT is above Base in NDCG@10: " in page.text
    # Both rank alike: no difference, and none is claimed.
    assert "Aligned does not clearly differ from SFT in NDCG@10: " in page.text
    assert "(+0.000; paired 95 % interval +0.000 to +0.000)" in page.text


def alignment_caption(full, chosen, rejected):
    log = [
        {"step": step, "logps/chosen": one, "logps/rejected": other}
        for step, (one, other) in enumerate(zip(chosen, rejected, strict=True), 1)
    ]
    return Page(render(with_round(full, alignment_log=log))).text


def test_falling_log_probabilities_are_said_aloud(full):
    # Ten steps of 1 to 10 and ten of 31 to 40: the means are 30 apart, and 2.84 is 2.101 (Student, 18 degrees) times
    # the root of 2 * 9.1667 / 10.
    text = Page(render(full)).text
    assert (
        "Change of the mean from the first to the last quarter of the steps: chosen \N{MINUS SIGN}30.00 (95 % "
        "interval \N{MINUS SIGN}32.84 to \N{MINUS SIGN}27.16), rejected \N{MINUS SIGN}60.00 (95 % interval "
        "\N{MINUS SIGN}65.69 to \N{MINUS SIGN}54.31). Both fell" in text
    )


def test_noise_is_no_change_of_the_log_probabilities(full):
    # Pairs differ from step to step: both are lower at the end, and by less than two steps differ anyway.
    text = alignment_caption(full, [-20, -22, -20, -22, -20, -22, -20, -23], [-30, -34, -30, -34, -30, -34, -30, -36])
    assert "chosen \N{MINUS SIGN}0.50 (95 % interval" in text
    assert text.count("no clear change") == 2
    assert "Both fell" not in text


def test_a_few_steps_say_nothing_of_the_log_probabilities(full):
    assert "quarter of the steps" not in alignment_caption(full, range(-20, -27, -1), range(-20, -27, -1))


def test_what_does_not_hold_for_all_sentences_is_not_claimed(full, result):
    """Two differences whose intervals lie above 0: p = 0.03 for both, which Holm's correction makes 0.06."""
    comparisons = tuple(
        replace(each, low=0.001, high=0.02, p_bootstrap=0.03)
        for each in result.comparisons
        if each.column == "ndcg@10"
    )
    assert len(comparisons) == 2
    page = Page(render(replace(full, evaluations=(replace(result, comparisons=comparisons),))))
    assert "is above" not in page.text
    assert page.text.count("does not clearly differ from") == 2
    assert page.text.count("+0.001 to +0.020, which does not hold after Holm's correction") == 2
    alone = Page(render(replace(full, evaluations=(replace(result, comparisons=comparisons[:1]),))))
    assert "SFT is above Base in NDCG@10" in alone.text


def test_a_mean_over_some_users_says_over_how_many(full, result):
    some = result.models["sft"].per_user["ndcg@10"].copy()
    some[:7] = np.nan
    fewer = replace(result.models["sft"], per_user={**result.models["sft"].per_user, "ndcg@10": some})
    page = Page(render(replace(full, evaluations=(replace(result, models={**result.models, "sft": fewer}),))))
    assert page.text.count("23 users") == 1
    assert "23 users" not in Page(render(full)).text


@pytest.mark.parametrize(
    ("models", "narrow", "wide"),
    [(2, 255, "(max-width: 435px)"), (5, 453, "(max-width: 747px)"), (8, 620, "(max-width: 1059px)"), (9, 620, None)],
)
def test_a_table_that_is_cut_off_says_so(result, models, narrow, wide):
    """On a narrow screen a table needs 92 pixels, 66 a model, and 32 beside it; on a wide one 180, 104 and 48, where
    the page has 1060 at most."""
    some = {f"model {number}": result.models["sft"] for number in range(models)}
    style = render(ReportData("one", evaluations=(replace(result, models=some, comparisons=()),)))
    shown = "{ #results-1 .sideways { display: block; } }"
    assert f"@media (max-width: {narrow}px) {shown}" in style
    assert f"@media (min-width: 621px){f' and {wide}' if wide else ''} {shown}" in style


def test_pairs_count_only_what_is_there(full):
    # Three rejected items; the 0.9 belongs to an empty slot.
    assert "Share of 3 pairs; mean 0.300, median 0.250." in Page(render(full)).text


def test_the_oracles_quality_is_told(full, result):
    bins = (ReliabilityBin(0.0, 0.5, 1500, 0.25, 0.2), ReliabilityBin(0.5, 1.0, 500, 0.75, 0.9))
    judged = replace(result, oracle_quality=OracleQuality(2000, 0.8125, 0.05, bins))
    page = Page(render(replace(full, evaluations=(judged,))))
    text = page.text
    assert page.tags.count("svg") == 2 + 5 + 3
    assert "0.250 predicted, 0.200 observed (1,500)" in text
    assert (
        "2,000 held-out questions, each pair asked in both orders: AUC 0.812, expected calibration error 0.050"
        in text
    )


def test_what_was_rejected_by_similarity(full):
    alike = (np.array([0.5, 0.9, 0.91, 0.93], np.float32), np.array([-0.1, 0.0, 0.1, 0.2], np.float32))
    page = Page(render(with_round(full, similarity=alike)))
    assert "mean: rejected 0.810, an item drawn uniformly 0.050." in page.text
    # From -0.1 to 1 in 16 bins of 0.06875: the last three rejected lie in [0.8625, 0.93125).
    assert "rejected, 0.862 to 0.931: 75.0% (3)" in page.text


def test_several_runs_have_one_table_and_their_own_sections(full, result):
    both = replace(
        result,
        models={
            "sft": result.models["sft"],
            "aligned (first)": result.models["aligned"],
            "aligned (second)": result.models["<b>mine</b>"],
        },
        comparisons=(),
    )
    text = render_side_by_side("two runs", [both], {"first": full, HOSTILE: with_round(full, sft_log=[], pairs=None)})
    page = Page(text)
    assert page.ids == {
        *("results-1", "users", "training-1", "preferences-1", "time-1", "run-1"),
        *("training-2", "time-2", "run-2"),
    }
    assert page.tags.count("svg") == 2 + 5 + 2 + 4
    assert "script" not in page.tags
    assert page.tags.count("article") == 12
    # One colour a model, wherever it stands.
    assert '<i class="rose"></i>Aligned (first)' in text
    assert '<i class="violet"></i>Aligned (second)' in text
    assert '<g class="violet"><title>Aligned (second)' in text


def test_a_runs_curves_have_the_colour_of_its_model(full, result):
    aligned = {"aligned (first)": result.models["aligned"], "aligned (second)": result.models["<b>mine</b>"]}
    both = replace(result, models=aligned, comparisons=())
    bare = with_round(full, pairs=None)
    text = render_side_by_side("two runs", [both], {"first": bare, "second": bare})
    first, second = (
        re.findall(r'<path class="(\w+)"', text.split(f'id="training-{run}"')[1].split("</section>")[0])
        for run in (1, 2)
    )
    # SFT: loss; alignment: loss, margin, accuracy; chosen. What was rejected is dashed.
    assert first == ["teal", "rose", "rose", "rose", "green"]
    assert second == ["teal", "violet", "violet", "violet", "green"]


def test_no_label_hides_a_point(full):
    chart = render(full).split("NDCG@10 against popularity</h3>")[1].split("</svg>")[0]
    assert chart.count("<circle") == 5
    assert chart.rindex("</text>") < chart.index("<circle")


def test_a_table_without_the_usual_metrics(result, split):
    columns = {"mrr": result.columns["mrr"]}
    models = {
        name: replace(each, metrics={"mrr": math.nan if name == "sft" else each.metrics["mrr"]})
        for name, each in result.models.items()
    }
    page = Page(render(ReportData("one", evaluations=(replace(result, columns=columns, models=models),))))
    assert page.tags.count("svg") == 0
    assert "is above" not in page.text


def test_a_model_without_a_measure_is_left_out_of_the_scatter(result):
    def without(names):
        models = {
            name: replace(each, metrics={**each.metrics, "arp@10": math.nan}) if name in names else each
            for name, each in result.models.items()
        }
        return Page(render(ReportData("one", evaluations=(replace(result, models=models),))))

    assert without(["sft"]).tags.count("circle") == 4
    assert without(list(result.models)).tags.count("svg") == 0


def test_parts_without_data_are_left_out(split, result):
    page = Page(render(ReportData(title="bare")))
    assert (page.ids, page.tags.count("svg")) == (set(), 0)
    assert Page(render(ReportData("one", evaluations=(result,)))).ids == {"results-1"}
    assert Page(render(ReportData("one", evaluations=(result,), split=split))).ids == {"results-1", "users"}
    assert (
        Page(render(ReportData("one", rounds=[ReportRound(sft_log=[{"train_loss": 1.0, "step": 3}])]))).ids == set()
    )
    assert Page(render(ReportData("one", rounds=[ReportRound(sft_log=[{"loss": 1.0, "step": 1}])]))).ids == {
        "training"
    }


def test_one_user_and_one_model_are_enough(split):
    candidates = Candidates(np.array([[split.test.target[0], 1]], dtype=np.int32), np.array([0], dtype=np.int32))
    models = dict.fromkeys(("sft", "aligned"), lambda examples, items: np.zeros(items.shape, np.float32))
    one = tables(models, split, split.test.take(np.array([0])), candidates, EvaluationOptions(ks=(1,)))
    text = Page(render(ReportData("one", evaluations=(one,), split=split))).text
    assert "Aligned does not clearly differ from SFT in HR@1: 0.500 against 0.500 (+0.000)." in text
    assert "HR@1 against popularity" in text


def test_twelve_users_with_history_target_and_lists(split, result):
    users = shown_users(result, split, 4)
    assert [user.user for user in users] == [f"u{row}" for row in (0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29)]
    first = users[0]
    assert first.target.title == HOSTILE
    assert first.earlier == 11 - 4
    assert [item.title for item in first.history] == [
        split.catalogue.titles[item] for item in split.test.sequences[0][7:11]
    ]
    head = set(np.argsort(-split.catalogue.popularity, kind="stable")[:8].tolist())
    for _, _, _, items in first.models:
        assert len(items) == 5
    name, _, rank, items = first.models[-1]
    assert (name, rank) == ("<b>mine</b>", "target at 1")
    assert items[0].target
    shown = result.models["<b>mine</b>"].top[0, :5].tolist()
    assert [item.popular for item in items] == [item in head for item in shown]


def test_curves_pass_over_what_they_cannot_draw():
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0}, {"train_loss": 1.5}]
    chart = charts.curves("loss", log, {"loss": ("loss", "teal")})
    assert chart is not None
    assert [line.path.count("L") for line in chart.lines] == [1]
    assert charts.curves("loss", [{"step": 1}], {"loss": ("loss", "teal")}) is None


def test_running_mean_by_hand():
    assert charts.running_mean(np.array([4.0, 2.0, 6.0, 0.0]), 2).tolist() == [4, 3, 4, 3]


def test_ticks_are_round():
    assert [tick.text for tick in charts.Scale(0, 1, 0, 100).ticks(5)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [tick.text for tick in charts.Scale(-26, -19, 0, 100).ticks(4)] == [
        f"\N{MINUS SIGN}{n}" for n in (26, 24, 22, 20)
    ]
    assert [tick.text for tick in charts.Scale(0, 1.1, 0, 100).ticks(5)] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert [tick.text for tick in charts.Scale(1, 16, 0, 100).ticks(6, whole=True)] == ["5", "10", "15"]
    assert [tick.text for tick in charts.Scale(1, 3, 0, 100).ticks(6, whole=True)] == ["1", "2", "3"]
    assert [(tick.at, tick.text) for tick in charts.Scale(0, 4000, 0, 100).ticks(2)] == [
        *((0, "0"), (50, "2,000"), (100, "4,000"))
    ]


def test_popularity_bins_double():
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 1500])
    chart = charts.popularity_bars("popularity", {"chosen": (counts, "teal")})
    shares = [re.search(r"(\S+(?: to \S+)?) interactions: (.*)", bar.text).groups() for bar in chart.bars]
    assert shares == [
        *(("0", "12.5%"), ("1", "12.5%"), ("2 to 3", "25.0%"), ("4 to 7", "25.0%"), ("8 to 15", "12.5%")),
        ("1024 to 2047", "12.5%"),
    ]
    assert [tick.text for tick in chart.x_ticks][-3:] == ["256", "512", "1k"]


def boxes_of(chart):
    """What each label covers at most: 7 pixels a character and 12 above its foot."""
    for dot in chart.dots:
        width = 7 * len(dot.label)
        left = dot.label_x if dot.anchor == "start" else dot.label_x - width
        yield left, dot.label_y - 10, left + width, dot.label_y + 2


def overlapping(boxes):
    return [
        (one, other)
        for one, other in itertools.combinations(boxes, 2)
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 14, 40])
@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0], ids=["one place", "a heap", "everywhere"])
def test_no_label_covers_another_or_a_point(count, spread):
    rng = np.random.default_rng(count)
    points = [
        charts.Point(f"Aligned (seed-{place})", 100 + 60 * spread * x, 0.5 + spread * y, 0.4, 0.6, "rose")
        for place, (x, y) in enumerate(rng.random((count, 2)))
    ]
    chart = charts.scatter("scatter", points, "x")
    boxes = list(boxes_of(chart))
    assert overlapping(boxes) == []
    assert all(dot.label for dot in chart.dots)
    assert all(
        box[0] >= chart.left and box[1] >= 0 and box[2] <= chart.width and box[3] <= chart.bottom for box in boxes
    )
    circles = {(dot.x - 4, dot.y - 4, dot.x + 4, dot.y + 4) for dot in chart.dots}
    assert [pair for pair in itertools.product(boxes, circles) if overlapping(pair)] == []
    named = [dot.label for dot in chart.dots]
    if count <= 9:
        assert named == [point.label for point in points]
    if count == 40:
        # Numbers stand at the points, and the legend says whose they are.
        assert named == [str(number) for number in range(1, 41)]
        assert list(chart.legend)[:2] == ["1 Aligned (seed-0)", "2 Aligned (seed-1)"]


def test_the_terms_of_a_sum_of_losses_have_their_own_curves():
    log = [{"step": step, "loss": 1.0 / step, "loss/dpo": 0.7, "loss/sft": 3.0} for step in (1, 2, 3)]
    [chart] = figures.training([], log, "rose")
    assert chart.legend == {"total": "rose", "dpo": "green", "sft": "orange dashed"}
    [chart] = figures.training([], [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], "rose")
    assert chart.legend == {}
