"""The page: well formed, complete, faithful to the record, inert, and the same every time."""

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from trustbound.errors import RecordError
from trustbound.record.binomial import binomial_interval
from trustbound.report import read_gallery, render, write
from trustbound.report.wording import subject

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page read strictly: every tag closed in order; ids, tables and texts collected."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.attributes, self.tables, self.tags = [], [], [], [], []
        self.headings, self.sections, self._section = [], {}, None
        self._cell = None
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self._see(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = dict(attributes)["id"]
            self.sections[self._section] = ""
        if tag == "table":
            self.tables.append({"section": self._section, "caption": "", "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th", "caption"):
            self._cell = ""
            if tag == "th":
                assert dict(attributes)["scope"] in ("row", "col")

    def handle_startendtag(self, tag, attributes):
        self._see(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append(self._cell.strip())
            self._cell = None
        if tag == "caption":
            self.tables[-1]["caption"] = self._cell.strip()
            self._cell = None
        if tag == "section":
            self._section = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data
        if self._section:
            self.sections[self._section] += data

    def _see(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attributes]
        self.ids += [value for key, value in attributes if key == "id"]

    def table(self, section, start):
        """The one table of a section whose caption starts so: header and rows by their first cell."""
        found = [t for t in self.tables if t["section"] == section and t["caption"].startswith(start)]
        assert len(found) == 1, f"{len(found)} tables start with {start!r} in {section}"
        head, *rows = found[0]["rows"]
        return head, {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def full(specimens):
    record, arrays = specimens.record(("linf:0.1", "l2:0.5"))
    return record, render(record, gallery=arrays)


@pytest.fixture(scope="module")
def hostile(specimens):
    record, arrays = specimens.hostile()
    return record, render(record, gallery=arrays)


def percent(value):
    return f"{value * 100:.1f}\u00a0%"


def span(limits):
    return f"{limits[0] * 100:.1f}–{limits[1] * 100:.1f}\u00a0%"


def numbers(text):
    return [float(each) for each in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]


@pytest.mark.parametrize("which", ["full", "hostile", "bare"])
def test_balanced_complete_and_inert(which, full, hostile, specimens):
    text = {"full": full[1], "hostile": hostile[1]}.get(which) or render(specimens.bare())
    page = Page(text)
    assert tuple(page.sections) == specimens.SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1
    assert page.tags.count("main") == page.tags.count("header") == page.tags.count("footer") == 1
    assert ("html", "lang", "en") in page.attributes
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(page.tags)
    assert len(text.encode()) < 3_000_000
    known = set(page.ids)
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        assert key not in ("src", "srcset", "action")
        if key in ("href", "xlink:href"):
            assert value.startswith("data:image/png;base64," if tag == "image" else "#")
            assert tag == "image" or value[1:] in known
        for target in re.findall(r"url\(([^)]*)\)", value or ""):
            assert target.startswith("#")
            assert target[1:] in known
        if key == "aria-labelledby":
            assert set(value.split()) <= known
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_day_is_written_as_people_write_it(full):
    assert "3 Jun 2025, 10:21 UTC" in full[1]


def test_nothing_points_to_the_network(full):
    assert "http" not in full[1]
    assert "src=" not in full[1]
    assert "//" not in re.sub(r"base64,[^\"]*", "", full[1])


def test_hostile_text_is_text(hostile):
    text = hostile[1]
    assert "<script" not in text
    assert "{{ 7*7 }}" in text
    assert "\x00" not in text
    assert "\x1b" not in text
    text.encode("utf-8")
    assert "&lt;script&gt;alert(" in text
    assert "数字" in text
    page = Page(text)
    assert '<script>alert("x")</script>&amp;' in page.sections["checks"]
    assert page.sections["checks"].count("What to do:") == 20  # of 40 checks half failed or warned
    assert len(page.tables[[t["section"] for t in page.tables].index("all-checks")]["rows"]) == 41
    assert page.tags.count("h1") == 1


def test_same_bytes_every_time_and_in_another_process(full, specimens, tmp_path):
    record, text = full
    arrays = specimens.record(("linf:0.1", "l2:0.5"))[1]
    assert render(record, gallery=arrays) == text
    code = (
        "import importlib.util,sys,hashlib\n"
        f"s=importlib.util.spec_from_file_location('specimens',{specimens.__file__!r})\n"
        "m=importlib.util.module_from_spec(s);s.loader.exec_module(m)\n"
        "import matplotlib;matplotlib.rcParams.update({'axes.grid':True,'font.size':30,'svg.fonttype':'path'})\n"
        "from trustbound.report import render\n"
        "r,g=m.record(('linf:0.1','l2:0.5'))\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "open(sys.argv[1],'wb').write(render(r,gallery=g).encode())"
    )
    other = tmp_path / "other.html"
    subprocess.run([sys.executable, "-c", code, str(other)], check=True)
    assert other.read_text() == text


def test_drawing_leaves_matplotlib_as_it_was(specimens):
    import matplotlib

    before = dict(matplotlib.rcParams)
    render(specimens.bare())
    assert dict(matplotlib.rcParams) == before


def test_bracket_table_is_the_record(full):
    record, text = full
    page = Page(text)
    _, rows = page.table("brackets", "Brackets in numbers")
    assert list(rows) == ["linf:0.1", "l2:0.5"]
    for b in record.brackets:
        assert rows[b.threat] == [
            f"{percent(b.lower)} ({span(b.lower_interval)})",
            f"{percent(b.upper)} ({span(b.upper_interval)})",
            *(str(k) for k in (b.n, b.certified, b.unknown, b.ties, b.broken, b.misclassified)),
        ]
    _, errors = page.table("errors", "Errors")
    for b in record.brackets:
        for cell, k in zip(errors[b.threat], (b.misclassified, b.broken, b.misclassified + b.broken), strict=False):
            assert cell == f"{percent(k / b.n)} ({span(binomial_interval(k, b.n))})"


def test_example_rows_are_listed(full):
    record, text = full
    table = next(t for t in Page(text).tables if t["caption"].startswith("Which examples"))
    for threat, verdict, n, rows in table["rows"][1:]:
        wanted = sorted(r.index for r in record.examples if (r.threat, r.verdict) == (threat, verdict))
        assert [int(each) for each in rows.split()] == wanted
        assert int(n) == len(wanted)
    assert sum(int(row[2]) for row in table["rows"][1:]) == 600


def test_curve_tables_are_the_record(full):
    record, text = full
    page = Page(text)
    for curve in record.curves:
        _, rows = page.table("curve-numbers", f"Security curve under {curve.norm} in numbers")
        assert len(rows) == len(curve.epsilons)
        for (epsilon, (lower, upper)), i in zip(rows.items(), range(len(rows)), strict=True):
            assert float(epsilon) == pytest.approx(curve.epsilons[i], rel=1e-3)
            assert numbers(lower)[0] == pytest.approx(100 * curve.lower[i], abs=0.051)
            assert numbers(upper)[0] == pytest.approx(100 * curve.upper[i], abs=0.051)
            assert span(curve.lower_interval[i]) in lower
            assert span(curve.upper_interval[i]) in upper


def test_a_curve_in_units_of_columns_is_drawn_and_told_in_them(specimens):
    curve = dataclasses.replace(specimens.curve(), unit="%")  # up to 0.2, which is 20 %
    record = specimens.light(threats=("linf:5%",), curves=(curve,))[0]
    text = render(record)
    page = Page(text)
    _, rows = page.table("curve-numbers", "Security curve under linf in numbers, in per cent of each column's range:")
    assert [float(epsilon) for epsilon in rows] == pytest.approx([100 * epsilon for epsilon in curve.epsilons])
    assert "from 0 to 20." in text
    assert "allowed change, per cent of each column's range" in text
    assert "linf:5%" in re.search(r"<svg.*?</svg>", text[text.index('id="curve"') :], re.S).group(0)


def test_waterfall_tables_are_the_record(full):
    record, text = full
    page = Page(text)
    for b in record.brackets:
        _, rows = page.table("waterfall", f"The steps under {b.threat}")
        steps = [s for s in record.steps if s.threat == b.threat]
        assert len(rows) == len(steps)
        for cells, step in zip(rows.values(), steps, strict=True):
            assert cells[0] == f"{step.method}, {step.kind}"
            assert numbers(cells[1]) == [step.examined]
            assert numbers(cells[2]) == [step.control]
            assert numbers(cells[3]) == [step.settled]
            assert [numbers(c)[0] for c in cells[5:8]] == [
                step.cost.forwards,
                step.cost.backwards,
                step.cost.queries,
            ]
            assert numbers(cells[8])[0] == pytest.approx(step.cost.units(2.71), rel=1e-3)
        assert numbers(list(rows.values())[-1][4]) == [b.unknown]


def test_uncertainty_tables_are_the_record(full):
    record, text = full
    page = Page(text)
    found = record.uncertainty
    for state, scores in (("clean", found.clean), ("attacked (linf:0.1)", found.attacked)):
        table = next(t for t in page.tables if t["caption"].startswith(f"Reliability, {state}"))
        for cells, each in zip(table["rows"][1:], scores.reliability.bins, strict=True):
            assert int(cells[2]) == each.count
            if each.count:
                assert numbers(cells[4])[0] == pytest.approx(100 * each.accuracy, abs=0.051)
                assert span(each.interval) in cells[4]
            else:
                assert cells[4] == "–"
        table = next(t for t in page.tables if t["caption"].startswith(f"Risk and coverage, {state}"))
        risk = dict(zip(scores.risk_coverage.coverage, scores.risk_coverage.risk, strict=True))
        assert len(table["rows"]) == 21
        for cells in table["rows"][1:]:
            k = int(cells[1])
            assert numbers(cells[2])[0] == pytest.approx(100 * risk[k / scores.n], abs=0.051)
            assert span(binomial_interval(round(risk[k / scores.n] * k), k)) in cells[2]
        assert table["rows"][-1][0] == "100\u00a0%"
    head, rows = page.table("uncertainty", "Uncertainty scores")
    assert head[:4] == ["score", "clean", "attacked (linf:0.1)", "attacked (l2:0.5)"]
    assert head[4:] == ["clean, scaled", "attacked (linf:0.1), scaled", "attacked (l2:0.5), scaled"]
    for name, field in (("NLL, nats", "nll"), ("Brier score", "brier"), ("AURC", "aurc")):
        assert [float(c) for c in rows[name]] == [
            getattr(d, field)
            for d in (found.clean, *2 * [found.attacked], found.scaled_clean, *2 * [found.scaled_attacked])
        ]
    assert "Scale: divide logits by 1.383." in page.sections["uncertainty"]
    assert found.temperature.reason in page.sections["uncertainty"]
    _, rows = page.table("uncertainty", "Split conformal sets")
    assert rows["threshold"][1] == f"91.3\u00a0% ({span(binomial_interval(137, 150))})"
    assert rows["aps"][7] == "∞"


def test_every_threat_has_its_own_attacked_scores(specimens):
    weak, strong = specimens.assessment(), specimens.assessment()
    strong = dataclasses.replace(
        strong,
        attacked=specimens.calibration_scores(0.2, seed=5),
        conformal=tuple(dataclasses.replace(each, coverage_attacked=0.25) for each in strong.conformal),
    )
    record, _ = specimens.light(threats=("linf:0.1", "l2:0.5"), doubts={"linf:0.1": weak, "l2:0.5": strong})
    text = render(record)
    page = Page(text)
    head, rows = page.table("uncertainty", "Uncertainty scores")
    assert head == [
        "score",
        "clean",
        "attacked (linf:0.1)",
        "attacked (l2:0.5)",
        "clean, scaled",
        "attacked (linf:0.1), scaled",
        "attacked (l2:0.5), scaled",
    ]
    assert [float(cell) for cell in rows["NLL, nats"][:3]] == [weak.clean.nll, weak.attacked.nll, strong.attacked.nll]
    head, rows = page.table("uncertainty", "Split conformal sets")
    at = head.index("attacked (l2:0.5) coverage") - 1
    assert rows["threshold"][at].startswith("25.0")
    assert not rows["threshold"][at - 2].startswith("25.0")
    captions = [table["caption"] for table in page.tables]
    assert sum(caption.startswith("Reliability, attacked (l2:0.5):") for caption in captions) == 1
    assert text.count(">attacked (l2:0.5)</text>") == 4  # drawn wide and narrow


def test_gallery_shows_the_pixels(specimens):
    import base64
    import io

    from PIL import Image

    for shape, mode in (((1, 8, 8), "L"), ((3, 16, 16), "RGB"), ((9, 7), "L")):
        record, arrays = specimens.light(shape=shape)
        text = render(record, gallery=arrays)
        images = [
            Image.open(io.BytesIO(base64.b64decode(each)))
            for each in re.findall(r"data:image/png;base64,([^\"]+)", text)
        ]
        assert len(images) == 3 * len(record.gallery)
        first = max(record.gallery, key=lambda each: each.adversarial_confidence)
        clean, adversarial = arrays[f"clean/{first.key}"], arrays[f"adversarial/{first.key}"]
        wanted = clean[0] if shape[0] == 1 else clean.transpose(1, 2, 0) if len(shape) == 3 else clean
        assert images[0].mode == mode
        assert np.abs(np.asarray(images[0]) / 255 - wanted).max() <= 0.5 / 255 + 1e-6
        factor = float(re.search(r"times\u00a0([\d.]+)", text).group(1))
        assert factor == 5.0  # a change of 0.1 fills half the range
        change = (0.5 + factor * (adversarial - clean)).clip(0, 1)
        for image, values in ((images[1], change), (images[2], adversarial)):
            wanted = values[0] if shape[0] == 1 else values.transpose(1, 2, 0) if len(shape) == 3 else values
            assert np.abs(np.asarray(image) / 255 - wanted).max() <= 0.5 / 255 + 1e-5
        assert "difference" in Page(text).sections["gallery"]
        assert "digit 5, 55.1\u00a0%" in text
        assert "digit 3 taken for digit 8" in text


def test_gallery_of_rows_is_a_table_and_without_arrays_a_sentence(specimens):
    record, arrays = specimens.light(shape=(30,))
    page = Page(render(record, gallery=arrays))
    table = next(t for t in page.tables if t["caption"].startswith("The 5 largest changes"))
    first = max(record.gallery, key=lambda each: each.adversarial_confidence)
    change = arrays[f"adversarial/{first.key}"] - arrays[f"clean/{first.key}"]
    assert set(int(row[0]) for row in table["rows"][1:]) <= set(np.argsort(-np.abs(change))[:5].tolist()) | {
        i for i in range(30) if abs(abs(change[i]) - np.sort(np.abs(change))[-5]) < 1e-6
    }
    assert "image" not in page.tags
    without = Page(render(record))
    assert "were not at hand" in without.sections["gallery"]
    assert "smooth-pgd" in without.sections["gallery-numbers"]


def test_the_gallery_shows_each_picture_once_the_most_confident_first(specimens):
    record, arrays = specimens.light(threats=("linf:0.1", "l2:0.5"))
    text = Page(render(record, gallery=arrays)).sections["gallery"]
    shown = [int(each) for each in re.findall(r"example (\d+)\.", text)]
    assert shown == [54, 37, 20, 3]  # of eight exhibits, every picture twice
    assert re.findall(r"(linf:0.1|l2:0.5), size", text).count("l2:0.5") == 2
    sure = [float(each) for each in re.findall(r"digit \d, ([\d.]+)\u00a0%", text)[1::2]]
    assert sure == sorted(sure, reverse=True)


def test_the_gallery_of_a_model_that_shows_decisions_alone_says_no_confidence(specimens):
    record, arrays = specimens.light()
    bare = [dataclasses.replace(each, clean_confidence=None, adversarial_confidence=None) for each in record.gallery]
    text = Page(render(dataclasses.replace(record, gallery=tuple(bare)), gallery=arrays)).sections["gallery"]
    assert "digit 8" in text
    assert not re.findall(r"digit \d, ", text)


def test_columns_are_called_by_their_names(specimens):
    from trustbound.record.audit import ColumnRadius

    record, arrays = specimens.light(shape=(3,))
    columns = (
        ColumnRadius(name="age", radius=2.0),
        ColumnRadius(name="sex", radius=0.0, kind="immutable"),
        ColumnRadius(name="income", radius=0.3),
    )
    bracket = dataclasses.replace(
        record.brackets[0], columns=columns, change="any change of each column by up to 5% of its range (age ±2 …)"
    )
    page = Page(render(dataclasses.replace(record, brackets=(bracket,)), gallery=arrays))
    assert "Each column changed by up to 5% of its range (sex kept as it is): between" in page.sections["verdict"]
    table = next(t for t in page.tables if t["caption"].startswith("The 3 largest changes"))
    assert sorted(row[0] for row in table["rows"][1:]) == ["age", "income", "sex"]


def test_a_model_that_shows_one_confidence_for_all_has_no_calibration_drawn(specimens):
    scores = specimens.calibration_scores(0.9)
    bins = tuple(
        dataclasses.replace(each, count=scores.n if place == 3 else 0)
        for place, each in enumerate(scores.reliability.bins)
    )
    same = dataclasses.replace(
        scores,
        mean_confidence=0.232,
        mean_confidence_on_errors=0.232,
        reliability=dataclasses.replace(scores.reliability, bins=bins),
    )
    report = dataclasses.replace(specimens.assessment(scale=False), clean=same, attacked=same)
    record, _ = specimens.light(doubts={"linf:0.1": report})
    assert "no confidence to be calibrated" in Page(render(record)).sections["calibration"]


def test_large_galleries_stay_small(specimens):
    random = np.random.default_rng(0)
    record, _ = specimens.light(shape=(3, 224, 224), gallery=())
    shown, arrays = specimens.exhibits("linf:0.1", (3, 4, 4), count=40)
    noise = random.random((2, 3, 224, 224), dtype=np.float32)
    arrays = {key: noise[int(key.startswith("adv"))] for key in arrays}
    text = render(dataclasses.replace(record, gallery=shown), gallery=arrays)
    assert len(text) < 3_000_000
    assert "Shown are 6 of 40" in text
    assert "Shown reduced from 224 × 224" in text


def test_missing_parts_say_so(specimens):
    page = Page(render(specimens.bare()))
    for section, words in {
        "brackets": "no proof: act (GELU)",
        "curve": "No security curve was measured",
        "waterfall": "lists no steps",
        "gallery": "no adversarial examples",
        "calibration": "not measured",
        "reliability": "not measured",
        "risk-coverage": "not measured",
        "uncertainty": "not measured",
        "checks": "No checks were made",
    }.items():
        assert words in page.sections[section], section
    record, _ = specimens.light(doubts={"linf:0.1": specimens.assessment(scale=False, attacked=False)})
    page = Page(render(record))
    assert "under attack was not measured" in page.sections["uncertainty"]
    assert "Do not scale." in page.sections["uncertainty"]
    assert "not measured" in page.table("uncertainty", "Split conformal")[1]["aps"]
    page = Page(render(dataclasses.replace(record, brackets=(), curves=(), doubts={})))
    for section in ("verdict", "brackets", "threats", "errors"):
        assert "No threat was examined" in page.sections[section]


def test_every_figure_has_words_and_a_table(full):
    text = full[1]
    figures = re.findall(r'<svg viewBox[^>]*class="figure".*?</svg>', text, re.S)
    assert len(figures) == 16
    for figure in figures:
        assert re.search(r"<title id=\"[^\"]+\">[^<]{8,}</title>", figure)
        assert re.search(r"<desc id=\"[^\"]+\">[^<]{40,}</desc>", figure)
        assert not re.search(r"(?:fill|stroke):\s*#", figure), "a colour that does not follow the theme"
        sizes = [float(each) for each in re.findall(r"font-size:([\d.]+)px", figure)]
        assert min(sizes) >= 12


def test_the_first_screen_says_the_bracket_in_words_and_figures(full):
    record, text = full
    assert "<title>How far can weights.safetensors be trusted?</title>" in text
    said = " ".join(Page(text).sections["verdict"].replace("\u00a0", " ").split())
    assert "Each pixel changed by up to 0.1: between 41.0 % and 63.3 % of 300 images withstand it" in said
    assert "clean accuracy 96.7 %." in said
    for words in ("proven to withstand it", "withstood every attack", "right when nothing is changed"):
        assert said.count(words) == 2
    assert "Of 4 checks of this evaluation 2 warned, 2 passed." in said
    quick = dataclasses.replace(record, curves=(), steps=(), doubts={})
    assert Page(render(dataclasses.replace(quick, checks=()))).sections["verdict"].count("No checks were made") == 1
    passed = tuple(each for each in record.checks if each.verdict == "PASS")
    assert "All 2 checks of this evaluation passed." in render(dataclasses.replace(quick, checks=passed))


@pytest.mark.parametrize(
    ("name", "command", "title"),
    [
        ("cnn-digits", "trustbound audit cnn-digits:runs/plain.safetensors --data digits", "plain.safetensors"),
        ("nets/net.py:make", "trustbound audit nets/net.py:make --weights w/best.pt", "best.pt"),
        ("nets/net.py:make", "trustbound audit nets/net.py:make", "net.py:make"),
        ("runs/wine.skops", "trustbound audit runs/wine.skops", "wine.skops"),
        ("net", "an 'open quote", "net"),
        ("net", "trustbound audit net: --weights", "net"),
    ],
)
def test_the_title_is_the_file_that_was_audited(specimens, name, command, title):
    bare = specimens.bare(command=command)
    assert subject(dataclasses.replace(bare, model=dataclasses.replace(bare.model, name=name))) == title


def test_costs_add_up_and_columns_of_zeros_are_gone(full):
    record, text = full
    page = Page(text)
    head, rows = page.table("cost", "Counted model evaluations")
    for column in range(1, len(head) - 3):
        *parts, whole = (int(cells[column - 1].replace(",", "")) for cells in rows.values())
        assert sum(parts) == whole
    assert "detector" not in text
    silent = dataclasses.replace(
        record,
        steps=tuple(dataclasses.replace(s, cost=dataclasses.replace(s.cost, queries=0)) for s in record.steps),
        cost=dataclasses.replace(record.cost, queries=0),
        doubts={},
        curves=(),
    )
    page = Page(render(silent))
    assert "queries" not in page.table("cost", "Counted model evaluations")[0]
    assert "queries" not in page.table("waterfall", "The steps under linf:0.1")[0]
    assert "ties" not in page.table("brackets", "Brackets in numbers")[0] or any(b.ties for b in record.brackets)


def test_every_check_is_a_row_and_every_threat_a_column(full):
    record, text = full
    head, rows = Page(text).table("all-checks", "Verdict and number")
    assert head == ["check", "linf:0.1"]
    assert sorted(name.partition(" ")[0] for name in rows) == sorted(check.name for check in record.checks)
    cells = {name.partition(" ")[0]: row for name, row in rows.items()}
    assert cells["black-box-never-beats-white-box"] == ["! 0.333"]
    assert cells["determinism"] == ["✓ 0"]
    assert cells["eight-bit-rounding"] == ["– SKIP"]
    said = Page(text).sections["checks"]
    assert "random search broke" in said.lower()
    assert "0 of 50 images withstand" not in said  # it passed: one line speaks for it


def test_reproduction_is_complete(full):
    record, text = full
    said = Page(text).sections["reproduce"]
    for part in (record.command, record.model.sha256, record.data.sha256, *record.versions.values()):
        assert part in said


def test_write_is_atomic(specimens, tmp_path, monkeypatch):
    record = specimens.bare()
    target = tmp_path / "report.html"
    assert write(record, target) == target
    assert target.read_text(encoding="utf-8") == render(record)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    before = target.read_bytes()
    with pytest.raises(RecordError, match="No space left"):
        write(dataclasses.replace(record, command="other"), target)
    assert target.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RecordError, match="cannot be"):
        write(record, tmp_path / "nowhere" / "report.html")


def test_read_gallery(specimens, tmp_path):
    from safetensors.numpy import save_file

    assert read_gallery(tmp_path) is None
    arrays = {"clean/a": np.ones((1, 2, 2), np.float32), "adversarial/a": np.zeros((1, 2, 2), np.float32)}
    save_file(arrays, tmp_path / "gallery.safetensors")
    back = read_gallery(tmp_path)
    assert set(back) == set(arrays)
    assert np.array_equal(back["clean/a"], arrays["clean/a"])
    (tmp_path / "gallery.safetensors").write_bytes(b"broken")
    with pytest.raises(RecordError, match="safetensors"):
        read_gallery(tmp_path)


def test_templates_belong_to_the_package():
    from importlib.resources import files

    names = {each.name for each in files("trustbound.report").joinpath("templates").iterdir()}
    assert {"report.html.j2", "comparison.html.j2", "blocks.html.j2", "page.css.j2"} <= names
