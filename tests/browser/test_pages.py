"""The explorer's page and the server's in a browser: what they show is what the model computed, to everybody.

Run by `make test-browser`, which needs Chromium (Debian: `apt-get install chromium fonts-noto-cjk`).
"""

import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import tiny_model
from test_prediction import CASES, CLASSIFY, TAG, TRANSLATE, model_of  # noqa: F401
from test_server import load, serving

from seqblend import Predictor
from seqblend.explorer.explorer import Limits
from seqblend.modeling.encoder import BlendEncoderForSequenceClassification
from seqblend.tokenization.training import train_tokenizer

TEXT = "abc cab 서울 [MASK] bac"
# A weight is carried as one byte.
STEP = 1 / 255
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "there is no Chromium; Debian: apt-get install chromium fonts-noto-cjk"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium, address, *, width=1400, scheme="light", offline=True):
    """A page; at the end nothing was written to the console, and nobody else was asked."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=offline)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: faults.append("a dialog"))
    page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
        # They tell why something was not found, too.
        assert faults == []


@pytest.fixture
def written(model_of, tmp_path):  # noqa: F811
    """Writes the page of a case; gives its address and the predictor."""

    def write(name, text=TEXT, predictor=None, **limits):
        predictor = Predictor(model_of(name)) if predictor is None else predictor
        column = "source" if name == TRANSLATE else "text"
        path = tmp_path / f"{name}.html"
        path.write_text(predictor.explore({column: text}, **limits), encoding="utf-8")
        return path.as_uri(), predictor

    return write


def percent_in(text):
    (number,) = re.findall(r"([\d.]+) %", text)
    return float(number) / 100


# --- Everybody can use it ---


@every_case
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_the_network_and_everybody_can_read_it(name, scheme, chromium, written):
    address, _ = written(name)
    with opened(chromium, address, scheme=scheme) as page:
        page.wait_for_selector(".kinds .map")
        for summary in page.locator("summary").all():
            summary.click()
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


@every_case
@pytest.mark.parametrize("width", [700, 360])
def test_a_page_fits_at_two_hundred_percent(name, width, chromium, written):
    """1400 pixels at 200 percent, and a telephone: only a map may be wider, in its own frame."""
    address, _ = written(name)
    with opened(chromium, address, width=width) as page:
        page.wait_for_selector(".kinds .map")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0


def test_a_printed_page_is_light(chromium, written):
    address, _ = written(CLASSIFY)
    corner = "canvas => canvas.toDataURL()"
    with opened(chromium, address, scheme="light") as page:
        light = page.locator(".map").first.evaluate(corner)
    with opened(chromium, address, scheme="dark") as page:
        dark = page.locator(".map").first.evaluate(corner)
        assert dark != light
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".map").first.evaluate(corner) == light
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator(".map").first.evaluate(corner) == dark
        assert len(page.pdf()) > 10_000


def test_nothing_in_a_text_is_run(chromium, written):
    address, _ = written(TAG, "<img src=x onerror=alert(1)> </script><script>alert(1)</script> ${alert(1)}")
    with opened(chromium, address) as page:
        page.wait_for_selector(".kinds .map")
        assert "</script><script>alert(1)" in page.locator(".words").inner_text()
        assert page.locator("img").count() == 0


# --- What it shows is what was computed ---


def weights_of(predictor, name, text=TEXT):
    """The weights of each kind of attention, (layers, heads, rows, columns), in the order of the page."""
    column = "source" if name == TRANSLATE else "text"
    rows, explorer = predictor.rows, predictor.explorer()
    row = predictor.make_reader().read({column: text}, "row", 1, None)
    reading = explorer.read(row)
    ids = torch.tensor([reading.ids])
    model = rows.model
    with torch.no_grad():
        more = {}
        if rows.task.generation is not None:
            written = model.generate(ids, **rows.generation)
            more, ids = ({"decoder_input_ids": written[:, :-1]}, ids) if name == TRANSLATE else ({}, written[:, :-1])
        model.set_attn_implementation("eager")
        output = model(ids, output_attentions=True, **more)
        model.set_attn_implementation("sdpa")
    kinds = [output[key] for key in ("encoder_attentions", "decoder_attentions", "cross_attentions") if key in output]
    return [torch.stack(kind)[:, 0] for kind in kinds or [output.attentions]]


@every_case
def test_a_cell_that_is_pointed_at_has_the_weight_of_the_model(name, chromium, written):
    address, predictor = written(name)
    kinds = weights_of(predictor, name)
    with opened(chromium, address) as page:
        page.wait_for_selector(".kinds .map")
        panels = page.locator(".kind").all()
        assert len(panels) == len(kinds)
        for panel, weights in zip(panels, kinds, strict=True):
            layers, heads, rows, columns = weights.shape
            buttons = panel.locator(".thumbnails button")
            assert buttons.count() == layers * (heads + 1)
            area = panel.locator(".area")
            for layer, head in [(0, -1), (0, 0), (layers - 1, heads - 1)]:
                buttons.nth(layer * (heads + 1) + head + 1).click()
                expected = weights[layer].mean(0) if head < 0 else weights[layer, head]
                box = panel.locator(".map").bounding_box()
                for row, column in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3), (rows - 1, 0)]:
                    place = {"x": (column + 0.5) * box["width"] / columns, "y": (row + 0.5) * box["height"] / rows}
                    area.hover(position=place)
                    shown = percent_in(panel.locator(".readout").inner_text())
                    assert shown == pytest.approx(expected[row, column].item(), abs=STEP)


@pytest.mark.parametrize("name", [CLASSIFY, TRANSLATE, "causal-lm"])
def test_the_arithmetic_of_a_cell_gives_its_weight(name, chromium, written):
    address, predictor = written(name)
    kinds = weights_of(predictor, name)
    with opened(chromium, address) as page:
        assert_arithmetic(page, kinds)


def assert_arithmetic(page, kinds):
    """The cells of the first column have the weights of the last head of the last layer."""
    page.wait_for_selector(".kinds .map")
    for panel, weights in zip(page.locator(".kind").all(), kinds, strict=True):
        panel.locator(".thumbnails button").last.click()
        expected, area = weights[-1, -1], panel.locator(".area")
        area.focus()
        page.keyboard.press("Enter")
        rows = len(expected)
        page.keyboard.press("Home")
        page.keyboard.press("PageUp")
        for row in range(rows):
            output = panel.locator(f".arithmetic[data-cell='{row},0'] output")
            assert percent_in(output.inner_text()) == pytest.approx(expected[row, 0].item(), abs=STEP)
            page.keyboard.press("ArrowDown")


def test_the_arithmetic_has_the_biases_of_distances(chromium, tmp_path):
    tokenizer = train_tokenizer(["abc cab"], "char", 99)
    biases = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}
    options = {"vocab_size": len(tokenizer), "initializer_range": 0.3, **biases}
    model = tiny_model(BlendEncoderForSequenceClassification, **options).float()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    predictor, text = Predictor(tmp_path), "abc cab bac"
    path = tmp_path / "page.html"
    path.write_text(predictor.explore({"text": text}), encoding="utf-8")
    with opened(chromium, path.as_uri()) as page:
        assert_arithmetic(page, weights_of(predictor, CLASSIFY, text))
        assert "The bias of the distance" in page.locator(".arithmetic").first.inner_text()


def test_keys_move_the_cell_and_choose_the_head(chromium, written):
    address, predictor = written(CLASSIFY)
    (weights,) = weights_of(predictor, CLASSIFY)
    with opened(chromium, address) as page:
        page.wait_for_selector(".kinds .map")
        page.locator(".thumbnails button[aria-pressed=true]").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".kind h3").first.inner_text() == f"Layer {len(weights)}, head 1"
        page.locator(".area").focus()
        page.keyboard.press("PageUp")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        shown = percent_in(page.locator(".readout").inner_text())
        assert shown == pytest.approx(weights[-1, 0, 1, 1].item(), abs=STEP)
        # All that can be reached by a pointer can be reached by keys.
        assert page.locator(".thumbnails button[tabindex='0']").count() == 1


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_the_text_of_the_slider_is_what_generate_writes(name, chromium, written):
    address, predictor = written(name)
    rows = predictor.rows
    column = "source" if name == TRANSLATE else "text"
    ids = torch.tensor([predictor.rows.encode([{column: TEXT}]).inputs["input_ids"][0]])
    sequence = rows.model.generate(ids, **rows.generation)[0]
    tokens = sequence[1:] if name == TRANSLATE else sequence[ids.shape[1] :]
    with opened(chromium, address) as page:
        page.wait_for_selector(".slider input")
        slider = page.locator(".slider input")
        assert slider.get_attribute("max") == str(len(tokens))
        for count in range(len(tokens) + 1):
            slider.fill(str(count))
            expected = rows.settings.tokenizer.decode(tokens[:count], skip_special_tokens=True)
            assert page.locator(".answer .written").text_content() == expected
            if count < len(tokens):
                assert page.locator(".answer .entry").count() == 5
        score = predictor({column: [TEXT]})["score"][0]
        said = f"All {len(tokens)} tokens are written. Geometric mean of their probabilities: {100 * score:.1f} %"
        assert said in page.locator(".answer").inner_text()


def test_the_alignment_is_that_of_the_chosen_head(chromium, written):
    """Its heading says which head it is, and whether a token that is not shown may be more."""
    address, predictor = written(TRANSLATE)
    crossing = weights_of(predictor, TRANSLATE)[-1]
    layers, heads, rows, _ = crossing.shape
    with opened(chromium, address) as page:
        page.wait_for_selector(".alignment")
        tokens = page.locator(".kind").last.locator(".columns span").all_text_contents()
        for layer, head in [(0, 0), (layers - 1, heads - 1)]:
            page.locator(".kind").last.locator(".thumbnails button").nth(layer * (heads + 1) + head + 1).click()
            found = page.locator(".alignment tr").last.locator("td").all_text_contents()
            assert found == [tokens[column] for column in crossing[layer, head].argmax(-1)] and len(found) == rows
            headings = page.locator(".answer h3").all_inner_texts()
            assert f"Alignment, layer {layer + 1}, head {head + 1}: each written token, and the source" in headings[-1]
            assert f"cross-attention, layer {layer + 1}, head {head + 1}: where" in headings[-2]
    address, _ = written(TRANSLATE, tokens=4)
    with opened(chromium, address) as page:
        page.wait_for_selector(".alignment")
        assert "the shown source token that it takes most from" in page.locator(".answer h3").last.inner_text()


def test_a_letter_of_several_tokens_stands_once(chromium, tmp_path):
    text = "서울은 한국의 수도이다. 👩\u200d👩\u200d👧 e\u0301"
    tokenizer = train_tokenizer([text, "서울이다 한국은"], "byte-bpe", 275)
    tokenizer.save_pretrained(tmp_path)
    tiny_model(BlendEncoderForSequenceClassification, vocab_size=len(tokenizer)).float().save_pretrained(tmp_path)
    path = tmp_path / "page.html"
    path.write_text(Predictor(tmp_path).explore({"text": text}), encoding="utf-8")
    with opened(chromium, path.as_uri()) as page:
        page.wait_for_selector(".flow")
        shown = page.locator(".flow").first.locator(".token:not(.special)").all_text_contents()
        assert "·" in shown
        assert "".join("".join(shown).replace("·", "").split()) == "".join(text.split())


def test_numbers_are_those_of_predict(chromium, written, model_of):  # noqa: F811
    predictor = Predictor(model_of("numbers"))
    # As those of a price: no digit that the model gives is rounded off.
    predictor.rows.model.score.weight.data *= 10**5
    (expected,) = predictor({"text": [TEXT]})["prediction"]
    address, _ = written("numbers", predictor=predictor)
    with opened(chromium, address) as page:
        page.wait_for_selector(".answer .entry")
        found = [float(each) for each in page.locator(".answer .entry .number").all_text_contents()]
    assert abs(found[0]) > 10**4 and found == pytest.approx(np.atleast_1d(expected), rel=1e-6)


def test_a_word_that_is_pointed_at_shows_what_it_blends(chromium, written):
    address, predictor = written(TAG, "abc cab bac")
    (weights,) = weights_of(predictor, TAG, "abc cab bac")
    with opened(chromium, address) as page:
        page.wait_for_selector(".words .word")
        page.locator(".words .word").nth(1).hover()
        lines = page.locator(".layerline").all()
        assert len(lines) == len(weights)
        # Characters are tokens: the second word begins at the fifth, after [CLS] and a space.
        for line, layer in zip(lines, weights.mean(1), strict=True):
            titles = [each.get_attribute("title") for each in line.locator(".token").all()]
            shown = [percent_in(title) for title in titles]
            place = next(row for row in range(len(layer)) if layer[row].numpy() == pytest.approx(shown, abs=STEP))
            assert titles[place].startswith("c")


@pytest.mark.parametrize(("text", "is_reversed"), [("مرحبا بكم abc", True), ("abc مرحبا بكم", False)])
def test_words_stand_in_the_direction_of_their_text(text, is_reversed, chromium, written):
    address, _ = written(TAG, text)
    with opened(chromium, address) as page:
        page.wait_for_selector(".words .word")
        places = [each.bounding_box()["x"] for each in page.locator(".words .word").all()]
        assert len(places) == 3 and places == sorted(places, reverse=is_reversed)


def test_a_tap_chooses_a_cell(chromium, written):
    address, predictor = written(CLASSIFY)
    (weights,) = weights_of(predictor, CLASSIFY)
    context = chromium.new_context(has_touch=True, viewport={"width": 700, "height": 900})
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".kinds .map")
    page.locator(".thumbnails button").last.tap()
    page.locator(".area").tap(position={"x": 3, "y": 3})
    assert percent_in(page.locator(".readout").inner_text()) == pytest.approx(weights[-1, -1, 0, 0].item(), abs=STEP)
    output = page.locator(".arithmetic[data-cell='0,0'] output")
    assert percent_in(output.inner_text()) == pytest.approx(weights[-1, -1, 0, 0].item(), abs=STEP)
    context.close()


def test_classes_change_the_gradient(chromium, written):
    address, _ = written(CLASSIFY)
    with opened(chromium, address) as page:
        page.wait_for_selector(".answer .entry")
        first = page.locator(".numbers").inner_html()
        page.locator(".answer input[type=radio]").nth(1).check()
        assert page.locator(".numbers").inner_html() != first


# --- How large, and how fast ---


def test_sixty_four_tokens_of_six_layers_of_eight_heads(chromium, tmp_path):
    """Under a megabyte, with the arithmetic of all layers; drawn within a second."""
    tokenizer = train_tokenizer(["abc cab"], "char", 99)
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8}
    options = {**sizes, "max_position_embeddings": 128, "vocab_size": len(tokenizer), "initializer_range": 0.02}
    model = BlendEncoderForSequenceClassification(
        tiny_model(BlendEncoderForSequenceClassification, **options).config
    ).float()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    content = Predictor(tmp_path).explore({"text": "abc cab " * 20})
    assert len(content.encode()) < 1_000_000 and "To keep the page small" not in content
    path = tmp_path / "page.html"
    path.write_text(content, encoding="utf-8")
    times = []
    for _ in range(3):
        with opened(chromium, path.as_uri()) as page:
            page.wait_for_selector(".kinds .map")
            times.append(page.evaluate("performance.now()"))
            assert page.locator(".thumbnails button").count() == 6 * 9
            assert page.locator(".mapframe .rows span").count() == Limits.tokens
    assert min(times) < 1000, times


# --- The server ---


@every_case
def test_the_page_of_the_server_explores(name, chromium, model_of):  # noqa: F811
    predictors = load(model_of(name))
    with serving(predictors) as address, opened(chromium, address, offline=False) as page:
        page.wait_for_selector("#model option", state="attached")
        page.locator("#text").fill(TEXT)
        page.locator("#send").click()
        page.wait_for_selector("#answer > *")
        page.locator("#show").click()
        page.wait_for_selector("#blending .map")
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        before = page.locator("#blending .columns span").count()
        page.locator("#text").fill("cab [MASK]")
        page.locator("#show").click()
        page.wait_for_selector("#show:enabled")
        assert page.locator("#blending .columns span").count() < before
