"""Pictures read again with PIL: each is what was found, rounded, and breaks the model where `contents.csv` says so."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import trustbound as tb
from trustbound.exports.pictures import _font


def contents(folder):
    with open(folder / "contents.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def pictures(audited):
    folder = audited.folder / "pictures"
    (written,) = tb.export(audited.run, png=folder, data=audited.data, model=audited.model)
    return folder, written.said


def test_each_picture_read_again_does_what_its_line_says(audited, pictures):
    folder, said = pictures
    lines = contents(folder)
    rows = {(row.threat, row.index): row for row in audited.record.examples}
    place = {index: at for at, index in enumerate(audited.record.data.indices)}
    assert len(lines) == sum(row.verdict == "broken" for row in rows.values())
    still = 0
    for line in lines:
        row = rows[line["threat"], int(line["row"])]
        levels = np.array(Image.open(folder / line["file"]))
        assert (levels.shape, levels.dtype) == ((8, 8), np.uint8)
        inputs = torch.from_numpy(levels).float()[None, None] / 255
        with torch.no_grad():
            scores = audited.model.module(inputs)[0]
        wrong = int(scores.argmax()) != row.label
        still += wrong
        assert line["still_breaks"] == ("yes" if wrong else "no")
        assert int(line["prediction_8_bit"]) == int(scores.argmax())
        others = scores.clone()
        others[row.label] = -torch.inf
        assert float(line["margin_8_bit"]) == pytest.approx(float(scores[row.label] - others.max()), abs=1e-5)
        assert float(line["size"]) == row.size
        if line["threat"] == "linf:0.1":
            size = float((inputs.double() - audited.data.inputs[place[row.index]].double()).abs().max())
            assert float(line["size_8_bit"]) == pytest.approx(size, abs=1e-9)
            assert abs(size - row.size) <= 0.5 / 255 + 1e-6
            assert line["inside_8_bit"] == str(size <= 0.1 + 1e-6)
        else:
            assert line["size_8_bit"] == line["inside_8_bit"] == ""
    assert 0 < still
    assert f"{still} of {len(lines)} still break the model" in said


def test_side_by_side_shows_clean_difference_and_adversarial(audited, pictures):
    folder, _ = pictures
    line = contents(folder)[0]
    place = list(audited.record.data.indices).index(int(line["row"]))
    sheet = np.asarray(Image.open(folder / line["side_by_side"]).convert("L")).astype(int)
    side, gap = 128, 6
    panes = [sheet[gap : gap + side, gap + n * (side + gap) :][:, :side][8::16, 8::16] for n in range(3)]
    clean = audited.data.inputs[place, 0].numpy().astype(np.float64)
    adversarial = np.asarray(Image.open(folder / line["file"])).astype(int)
    assert np.array_equal(panes[0], np.rint(clean * 255).astype(int))
    assert np.array_equal(panes[2], adversarial)
    shown = 127.5 + float(line["difference_magnified"]) * (adversarial - clean * 255)
    assert np.abs(panes[1] - np.clip(shown, 0, 255)).max() <= 0.5 * float(line["difference_magnified"]) + 1
    caption = sheet[gap + side :, :]
    assert caption.min() < 60 < 250 < caption.max()


def test_the_most_confidently_wrong_come_first_and_the_limit_is_said(audited, tmp_path):
    (written,) = tb.export(audited.run, png=tmp_path / "few", data=audited.data, limit=2)
    lines = contents(tmp_path / "few")
    assert [line["threat"] for line in lines] == ["linf:0.1"] * 2 + ["rotation:20"] * 2
    broken = [row for row in audited.record.examples if row.verdict == "broken" and row.threat == "linf:0.1"]
    surest = sorted(broken, key=lambda row: -row.adversarial_confidence)[:2]
    assert [int(line["row"]) for line in lines[:2]] == [row.index for row in surest]
    total = sum(row.verdict == "broken" for row in audited.record.examples)
    assert written.said.startswith(f"pictures of 4 of {total} broken examples")
    assert written.said.endswith("not asked: no model was given")
    assert len(list((tmp_path / "few").rglob("*.png"))) == 8


def test_a_change_that_rounding_takes_back_is_said_to_break_nothing_any_more(tmp_path):
    """One pixel decides, at 0.5005: what is found lies between 0.5002 and there, and is rounded up to 128 / 255."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[100.0, 0, 0, 0], [0, 0, 0, 0]]))
        net[1].bias.copy_(torch.tensor([-50.05, 0.0]))
    data = tb.LabelledSet(torch.tensor([[[0.5012, 0.5], [0.5, 0.5]]]), [0])
    model = tb.wrap(net)
    tb.audit(model, data, ["linf:0.001"], budget="quick", curve_examples=0, run=tmp_path / "run")
    (written,) = tb.export(tmp_path / "run", png=tmp_path / "out", data=data, model=model)
    (line,) = contents(tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out" / line["file"]))[0, 0] == 128
    assert (line["still_breaks"], line["prediction_8_bit"]) == ("no", "0")
    assert "0 of 1 still break the model" in written.said


def test_captions_have_every_letter():
    """A letter that the font lacks is drawn as the one box that all of these are."""
    font = _font()
    boxes = {bytes(font.getmask(chr(code))) for code in (0xE000, 0xE001)}
    assert len(boxes) == 1
    assert not boxes & {bytes(font.getmask(letter)) for letter in "×8aéßжψ"}


def test_another_model_is_refused(audited, tmp_path):
    other = tb.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    with pytest.raises(tb.InputError, match="Give the model that was audited"):
        tb.export(audited.run, png=tmp_path / "few", data=audited.data, model=other)


def test_colour_in_another_box_comes_back_as_it_was_shown(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 20 * 30, 4))
    data = tb.LabelledSet((torch.rand(4, 3, 20, 30) * 255).to(torch.uint8), [0, 1, 2, 3], box=(-1.0, 1.0))
    model = tb.wrap(net, box=(-1.0, 1.0))
    data = tb.LabelledSet(data.inputs, model(data.inputs).argmax(1), box=(-1.0, 1.0))
    tb.audit(model, data, ["linf:26/255"], budget="quick", curve_examples=0, run=tmp_path / "run")
    tb.export(tmp_path / "run", png=tmp_path / "out", data=data, model=model)
    lines = contents(tmp_path / "out")
    assert lines
    for line in lines:
        levels = np.array(Image.open(tmp_path / "out" / line["file"]))
        assert levels.shape == (20, 30, 3)
        inputs = torch.from_numpy(levels.transpose(2, 0, 1) / 255 * 2 - 1).float()
        assert (int(net(inputs[None]).argmax()) != int(line["label"])) == (line["still_breaks"] == "yes")
        assert float((inputs - data.inputs[int(line["row"])]).abs().max()) == pytest.approx(
            float(line["size_8_bit"]), abs=1e-5
        )
        assert line["inside_8_bit"] == "True"  # 13 levels of 2/255 on data of 8 bits: nothing is rounded away
