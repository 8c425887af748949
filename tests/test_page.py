"""The page, used as people use it: in a browser, by mouse, by keyboard, in two languages."""

import base64
import csv
import io

import pytest

import reslab
from browser import axe_findings, chromium, opened
from drawn_pictures import CLASSES
from reslab.using.tables import is_prediction_table
from serving import served

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
DIGITS = {  # strokes: points in hundredths of the canvas, x then y
    0: "50,18 34,26 28,50 34,74 50,82 66,74 72,50 66,26 50,18",
    1: "44,26 52,18 52,82",
    2: "32,34 38,22 52,18 66,26 66,40 52,58 32,80 70,80",
    3: "34,22 56,18 66,30 58,44 46,48 60,52 70,66 56,80 34,78",
    4: "40,20 32,54 70,54 / 62,34 62,84",
    5: "66,20 40,20 37,46 54,44 67,56 64,74 50,82 34,77",
    6: "60,18 42,36 34,60 42,78 56,80 66,68 58,54 38,60",
    7: "30,22 70,22 56,50 46,82",
    8: "62,28 50,18 37,28 44,44 60,58 66,72 50,82 35,72 42,56 58,44 62,28",
    9: "64,34 52,20 38,30 38,44 52,50 64,36 62,60 56,82",
}
DROP = """([name, type, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  const how = {dataTransfer: transfer, bubbles: true, cancelable: true};
  document.querySelector("#zone").dispatchEvent(new DragEvent("drop", how));
}"""
PASTE = DROP.replace("dataTransfer", "clipboardData").replace(
    'new DragEvent("drop"', 'new ClipboardEvent("paste"'
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser, run):
    with served(run.path, unknown_below=0.4) as found:
        yield found


@pytest.fixture(scope="module")
def grey_server(browser, tmp_path_factory):
    made = reslab.train(
        "digits", epochs=1, seed=1, quiet=True, out=tmp_path_factory.mktemp("grey") / "run"
    )
    with served(made.path) as found:
        yield found


@pytest.fixture
def picture(split_photos):
    return split_photos / "test" / CLASSES[0] / "100.png"


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def local_only(page, server):
    """No request left this machine, and nothing went wrong in the page."""
    assert page.urls
    for url in page.urls:
        assert url.startswith((server.url, f"blob:{server.url}", "data:")), url
    assert page.troubles == []


def draw(page, strokes):
    box = page.locator("#canvas").bounding_box()
    for stroke in strokes.split("/"):
        pairs = [[int(value) / 100 for value in pair.split(",")] for pair in stroke.split()]
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in pairs]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=4)
        page.mouse.up()


@pytest.mark.parametrize("event", [DROP, PASTE], ids=["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(browser, server, picture, event):
    found = server.classifier.predict(picture)
    with opened(browser, server.url, viewport=DESK, locale="en-US") as page:
        page.wait_for_selector("#ways:not([hidden])")
        page.evaluate(event, ["猫 & <b>.png", "image/png", encoded(picture)])
        page.wait_for_selector("#bars li")
        assert page.inner_text("#label") == found.label
        assert page.inner_text("#name") == "猫 & <b>.png"
        assert page.locator("#bars li").count() == len(CLASSES)
        shown = page.locator("#bars .number").first.inner_text()
        assert float(shown.rstrip("%")) == pytest.approx(100 * found.probability, abs=0.06)
        assert page.locator("#status").inner_text() == f"{found.label}, {shown}"
        page.click("#why")
        page.wait_for_selector("#marked:not([hidden])")
        assert page.evaluate("document.querySelector('#overlay').naturalWidth") > 0
        assert axe_findings(page) == []
        local_only(page, server)


def test_a_text_file_is_told_to_be_none(browser, server, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture", "utf-8")
    with opened(browser, server.url, viewport=DESK, locale="en-US") as page:
        page.wait_for_selector("#ways:not([hidden])")
        page.set_input_files("#files", tmp_path / "notes.txt")
        page.wait_for_selector("#label.error")
        assert page.inner_text("#label") == "This is no picture that can be read"
        assert "not a picture in a known format" in page.inner_text("#note")
        assert page.locator("#bars li").count() == 0
        assert not page.locator("#why").is_visible()
        local_only(page, server)


def test_several_pictures_are_a_table_that_can_be_saved(browser, server, split_photos, tmp_path):
    """More than fit into one request of the page, one of them unreadable, two of one name."""
    paths = sorted((split_photos / "test").rglob("*.png"))[:20]
    (tmp_path / '坏, "1".png').write_bytes(b"nothing")
    paths.insert(17, tmp_path / '坏, "1".png')
    with opened(browser, server.url, viewport=DESK, locale="en-US", accept_downloads=True) as page:
        page.wait_for_selector("#ways:not([hidden])")
        page.set_input_files("#files", paths)
        page.wait_for_selector("#save:enabled")
        assert page.locator("#rows tr").count() == 21
        assert "1 of them cannot be read" in page.inner_text("#status")
        with page.expect_download() as download:
            page.click("#save")
        assert is_prediction_table(download.value.path().read_bytes())
        text = download.value.path().read_text("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["path"] for row in rows] == [path.name for path in paths]
        for path, row in zip(paths, rows, strict=True):
            if row["error"]:
                assert path == paths[17]
                continue
            found = server.classifier.predict(path, unknown_below=0.4)
            assert (row["label"], row["likeliest"]) == (found.label, found.top[0].label)
            assert float(row["probability"]) == pytest.approx(found.probability, abs=1e-5)
        page.click("#rows tr:nth-child(18) button")
        assert page.inner_text("#name") == '坏, "1".png'
        assert axe_findings(page) == []
        local_only(page, server)


def test_what_is_not_believed_is_called_unknown(browser, run, picture):
    with (
        served(run.path, unknown_below=1.0) as server,
        opened(browser, server.url, locale="zh-CN") as page,
    ):
        page.wait_for_selector("#ways:not([hidden])")
        page.set_input_files("#files", picture)
        page.wait_for_selector("#label.unknown")
        assert page.inner_text("#label") == "未知"
        assert "最可能的类别" in page.inner_text("#note")


def test_two_languages_and_a_switch_that_is_remembered(browser, server):
    english, chinese = "What is in the picture?", "图片里是什么？"
    for locale, title, other in [("zh-CN", chinese, english), ("en-GB", english, chinese)]:
        with opened(browser, server.url, locale=locale) as page:
            page.wait_for_selector("#ways:not([hidden])")
            assert page.inner_text("h1") == title
            page.click("#language")
            assert page.inner_text("h1") == other
            page.reload()
            page.wait_for_selector("#ways:not([hidden])")
            assert page.inner_text("h1") == other
            lang = page.get_attribute("html", "lang")
            assert lang == ("en" if locale == "zh-CN" else "zh-CN")
            left = page.evaluate(
                "[...document.querySelectorAll('[data-text]')].filter(e => !e.textContent).length"
            )
            assert left == 0
            local_only(page, server)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_it_fits_a_phone(browser, grey_server, split_photos, scheme, locale):
    """Nothing sticks out to the side, at first, with a card and with a table."""
    with opened(
        browser, grey_server.url, viewport=PHONE, color_scheme=scheme, locale=locale,
        has_touch=True, is_mobile=True,
    ) as page:  # fmt: skip
        page.wait_for_selector("#ways:not([hidden])")
        paths = sorted((split_photos / "test").rglob("*.png"))
        for files in ([], paths[:1], paths[:5]):
            if files:
                page.set_input_files("#files", files)
                page.wait_for_selector("#bars li")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"]
            assert axe_findings(page) == []
        assert page.locator("#photograph").is_visible()
        local_only(page, grey_server)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_interface_is_described_without_help_from_elsewhere(browser, server, scheme):
    with opened(browser, server.url + "docs", viewport=PHONE, color_scheme=scheme) as page:
        assert page.locator("h2").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert axe_findings(page) == []
        local_only(page, server)


def test_by_keyboard_alone(browser, grey_server, picture):
    """Every control is reached by Tab and shows that it is; a digit is drawn by arrows."""
    with opened(browser, grey_server.url, viewport=DESK, locale="en-US") as page:
        choosers = []  # listened for from the start: it takes the browser a while to know
        page.on("filechooser", lambda one: choosers.append(one))
        page.wait_for_selector("#ways:not([hidden])")
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            where = page.evaluate(
                "[document.activeElement.id || document.activeElement.className,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
            reached.append(where[0])
            if where[0]:
                assert where[1] != "none", where
        assert reached[:6] == ["skip", "language", "choose", "canvas", "recognise", "clear"]
        page.focus("#choose")
        page.keyboard.press("Enter")
        for _ in range(100):
            if choosers:
                break
            page.wait_for_timeout(100)
        choosers[0].set_files(picture)
        page.wait_for_selector("#bars li")
        page.focus("#canvas")
        for key in ["ArrowUp"] * 8 + [" "] + ["ArrowDown"] * 16 + [" "]:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#name:has-text('drawing')")
        assert page.locator("#bars li").count() == 5
        page.focus("#why")
        page.keyboard.press("Enter")
        page.wait_for_selector("#marked:not([hidden])")
        local_only(page, grey_server)


def test_it_asks_for_the_token(browser, run, picture, tmp_path):
    (tmp_path / "token").write_text("a-long-enough-secret\n", "utf-8")
    with (
        served(run.path, token_file=str(tmp_path / "token")) as server,
        opened(browser, server.url, locale="en-US") as page,
    ):
        page.wait_for_selector("#access:not([hidden])")
        for secret in ("something-else-entirely", "a-long-enough-secret"):
            assert not page.locator("#ways").is_visible()
            page.fill("#token", secret)
            with page.expect_response("**/model"):
                page.keyboard.press("Enter")
        page.wait_for_selector("#ways:not([hidden])")
        page.set_input_files("#files", picture)
        page.wait_for_selector("#bars li")


def test_a_name_cannot_become_a_part_of_the_page(browser, server, tmp_path):
    name = "<img src=x onerror=document.title='caught'>.png"
    (tmp_path / name.replace("/", "")).write_bytes(b"nothing")
    with opened(browser, server.url, locale="en-US") as page:
        page.wait_for_selector("#ways:not([hidden])")
        page.set_input_files("#files", [tmp_path / name] * 2)
        page.wait_for_selector("#save:enabled")
        assert page.locator("#rows button").first.inner_text() == name
        assert page.title() == "reslab: What is in the picture?"
        assert page.locator("img[src=x]").count() == 0


def test_digits_that_are_drawn_are_recognised(browser, mnist_root, tmp_path):
    """By mnist-fast after one epoch of its two: at least 9 of the 10."""
    made = reslab.train(
        "mnist", recipe="mnist-fast", data_root=mnist_root, seed=0, epochs=1, quiet=True,
        out=tmp_path / "r",
    )  # fmt: skip
    right = []
    with (
        served(made.path) as server,
        opened(browser, server.url, viewport=DESK, locale="en-US") as page,
    ):
        page.wait_for_selector("#drawing:not([hidden])")
        for digit, strokes in DIGITS.items():
            page.click("#clear")
            draw(page, strokes)
            with page.expect_response("**/predict*"):
                page.click("#recognise")
            page.wait_for_selector("#status:has-text('%')")
            right.append(page.inner_text("#label") == str(digit))
        local_only(page, server)
    assert sum(right) >= 9, right
