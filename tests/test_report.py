"""The report: true, whole, self-contained, safe, in two languages, and the same after a kill."""

import html
import json
import re
import shlex
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import reslab
from browser import axe_findings, chromium, opened
from drawn_pictures import fill, picture
from reslab.cli import main
from reslab.errors import InputError
from reslab.judging.metrics import confusion_of
from reslab.reporting.charts import percent_axis
from reslab.reporting.comparison import compare
from reslab.reporting.content import command_of, gather
from reslab.reporting.page import report_page
from reslab.reporting.plan_words import _CHINESE, say_stage
from reslab.reporting.reports import _curves, pictures_of
from reslab.reporting.words import _TEXTS, choose_language
from reslab.run.display import Display
from reslab.run.folder import open_run
from reslab.run.looks import count_looks, looks_of, note_look

SETTINGS = {"batch_size": 16, "quiet": True, "seed": 1}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """A run that errs, on classes with hostile and Chinese names."""
    data = tmp_path_factory.mktemp("poor") / "d&d"
    for split, numbers in {"train": range(12), "test": range(50, 62)}.items():
        for kind, name in enumerate(("狗", HOSTILE, "{{ 7 * 7 }}")):
            (data / split / name.replace("/", "")).mkdir(parents=True)
            for number in numbers:
                image = picture((kind + (number % 3 == 0)) % 3, number)  # a third are mislabelled
                image.save(data / split / name / f"{number}.png")
    out = tmp_path_factory.mktemp("poor run") / "run"
    return reslab.train(data, out=out, epochs=3, language="zh", **SETTINGS)


def text_of(run):
    return (run.path / "report.html").read_text("utf-8")


def said(page):
    """The words of a page, without marks."""
    page = page[page.index("</style>") : page.index("<script>")]
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_train_writes_it_and_it_tells_the_result_first(run):
    page = text_of(run)
    words = said(page)
    score = run.test
    assert f"Of {score['n']} test pictures" in words
    assert f"在 {score['n']} 张从未见过的测试图片中" in words
    assert f"{100 * score['accuracy']:.1f} %" in words
    low, high = score["accuracy_interval"]
    assert f"between {100 * low:.1f} % and {100 * high:.1f} %" in words
    assert words.index("test pictures") < words.index("Training pictures as the network sees")
    assert len(page.encode()) < 5_000_000


def test_nothing_comes_from_elsewhere(run, poor):
    for page in (text_of(run), text_of(poor)):
        assert not re.findall(r"""(?:src|href|action|data)=["'](?!#|data:)""", page)
        assert "@import" not in page
        assert "url(" not in page
        assert "default-src 'none'" in page


def test_names_are_shown_as_they_are(poor):
    page = text_of(poor)
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    assert ">49<" not in page
    assert "{{ 7 * 7 }}" in said(page)


def test_mistakes_are_the_most_confident_ones_with_where_it_looked(poor):
    content = gather(poor, pictures_of(poor, Display(quiet=True)))
    wrong = [each for each in content.answers if not each.right]
    assert wrong
    shown = [each.answer for each in content.mistakes]
    assert shown == sorted(wrong, key=lambda each: -each.probability)[: len(shown)]
    assert all(each.map is not None for each in content.mistakes)
    page = text_of(poor)
    for answer in shown:
        assert html.escape(answer.path) in page


def test_a_name_that_breaks_lines_stays_one(tmp_path):
    """And a report that cannot be made does not cost the run."""
    fill(tmp_path / "d" / "train", 8)
    fill(tmp_path / "d" / "test", 4, start=50)
    (tmp_path / "d" / "test" / "猫" / "050.png").rename(tmp_path / "d" / "test" / "猫" / "a\rb.png")
    run = reslab.train(tmp_path / "d", out=tmp_path / "r", epochs=1, **SETTINGS)
    assert run.finished
    names = [answer.path for answer in gather(run, None).answers]
    assert "test/猫/a\rb.png" in names
    assert len(names) == 12


def test_a_page_is_not_worth_a_run(split_photos, tmp_path, monkeypatch, capsys):
    def fails(*given, **named):
        raise InputError("whatever")

    monkeypatch.setattr("reslab.training.run_files.write_report", fails)
    run = reslab.train(split_photos, out=tmp_path / "r", epochs=1, **SETTINGS)
    assert run.finished
    assert run.test["n"] == 24
    assert "no report: whatever" in capsys.readouterr().err


def test_seven_runs_have_seven_curves(poor):
    comparison = compare([poor.path] * 7)
    (_, losses), (_, accuracies) = _curves(comparison)
    assert losses.count("<polyline") == accuracies.count("<polyline") == 7


def test_it_is_made_of_the_run_alone(poor, tmp_path):
    """Written anew from the folder, it is the page that train wrote, but for the look it counts."""
    again = report_page(gather(poor, pictures_of(poor, Display(quiet=True))), "zh")
    assert again == text_of(poor)
    assert '<html lang="zh-Hans">' in again
    other = reslab.report([poor.path], out=tmp_path / "r.html", language="en", quiet=True)
    counted = other.read_text("utf-8")
    assert '<html lang="en">' in counted
    assert "what is chosen by a score that was looked at often flatters" in counted
    (poor.path / "looks.jsonl").write_text(
        (poor.path / "looks.jsonl").read_text("utf-8").splitlines(keepends=True)[0]
    )


def test_pictures_that_are_gone_are_not_shown(poor, tmp_path, capsys):
    shutil.copytree(poor.path, tmp_path / "moved")
    run = open_run(tmp_path / "moved")
    run.write_info(source=run.info["source"] | {"data": str(tmp_path / "gone")})
    with pytest.raises(InputError, match="has the pictures, which are not to be had any more"):
        reslab.report(run.path, language="en")  # it would lose them
    reslab.report(run.path, language="en", out=tmp_path / "bare.html")
    assert "the report shows no pictures" in capsys.readouterr().err
    page = (tmp_path / "bare.html").read_text("utf-8")
    assert "The pictures are not where they were" in said(page)
    assert "data:image" not in page


def test_a_table_that_was_sorted_since_costs_no_page_its_pictures(poor, tmp_path, capsys):
    shutil.copytree(poor.path, tmp_path / "sorted")
    table = tmp_path / "sorted" / "predictions.csv"
    head, *rows = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text(head + "".join(reversed(rows)), "utf-8")
    before = (tmp_path / "sorted" / "report.html").read_bytes()
    with pytest.raises(InputError, match="has the pictures, which are not to be had any more"):
        reslab.report(tmp_path / "sorted", language="en")
    assert "does not name the test pictures in their order" in capsys.readouterr().err
    assert (tmp_path / "sorted" / "report.html").read_bytes() == before


def test_the_command_of_a_page_leaves_out_what_the_run_left_out():
    source = {"data": "/d", "without": "/issues.csv", "kinds": "label", "test": None}
    assert shlex.split(command_of(source)) == [
        "reslab", "train", "/d", "--recipe", "recipe.toml", "--without", "/issues.csv",
        "--kinds", "label",
    ]  # fmt: skip


def test_a_thousand_classes_stay_readable(run, tmp_path):
    """The confusion matrix becomes a picture and a list of pairs; all of it under 5 MB."""
    content = gather(run, None)
    classes = tuple(f"类别 {number}" for number in range(1000))
    table = np.eye(1000, dtype=int) * 9
    table[3, 7] = 5
    run_like = type("RunLike", (), {})()
    run_like.__dict__ |= {"path": run.path, "recipe": run.recipe, "classes": classes}
    run_like.info = run.info | {"classes": list(classes), "class_counts": {"train": [9] * 1000}}
    each = {"n": 9, "precision": 1.0, "recall": 1.0, "f1": 1.0,
            "precision_interval": [0.7, 1.0], "recall_interval": [0.7, 1.0]}  # fmt: skip
    scores = content.scores | {
        "per_class": dict.fromkeys(classes, each), "confusion_matrix": table.tolist()
    }  # fmt: skip
    large = type(content)(**{**vars(content), "run": run_like, "scores": scores})
    page = report_page(large, "en")
    assert len(page.encode()) < 5_000_000
    assert '<table class="matrix">' not in page
    assert large.pairs()[0] == {
        "true": "类别 3", "said": "类别 7", "times": 5, "share": pytest.approx(5 / 14)
    }  # fmt: skip
    assert report_page(content, "en").count('<table class="matrix">') == 1
    sparse = {key: value for key, value in scores.items() if key != "confusion_matrix"}
    counts = [[row, row, 9] for row in range(1000)] + [[3, 7, 5]]
    assert np.array_equal(confusion_of(sparse | {"confusion_counts": counts}), table)


def test_a_run_without_test_pictures_says_so(tmp_path):
    fill(tmp_path / "d" / "train", 12)
    run = reslab.train(
        tmp_path / "d", out=tmp_path / "r", epochs=1, fields={"split.test": 0}, **SETTINGS
    )
    assert "This run has no test split" in said(text_of(run))
    assert looks_of(run.path) == []
    bare = reslab.train(
        tmp_path / "d", out=tmp_path / "b", epochs=1, language="en",
        fields={"split.test": 0, "split.validation": 0}, **SETTINGS,
    )  # fmt: skip
    assert "nothing says how good it is" in said(text_of(bare))


@pytest.mark.parametrize(
    ("environment", "language"),
    [({}, "en"), ({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LANG": "de_DE.UTF-8"}, "en"),
     ({"LANG": "zh_TW.UTF-8", "LC_ALL": "C"}, "en"), ({"LC_MESSAGES": "zh_CN"}, "zh")],
)  # fmt: skip
def test_the_systems_language_is_chosen(environment, language, monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_language(None) == language
    assert choose_language("zh") == "zh"
    with pytest.raises(InputError, match="choose from en, zh"):
        choose_language("fr")


def test_every_text_has_both_languages_and_the_same_places():
    for key, (english, chinese) in _TEXTS.items():
        places = [sorted(re.findall(r"{(\w+)}", text)) for text in (english, chinese)]
        assert places[0] == places[1], key
        assert english.strip(), key
        assert chinese.strip(), key


# Every look is counted


def test_looks_are_counted_with_their_command(split_photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, epochs=2, watch_test=True, **SETTINGS)
    assert len(looks_of(out)) == 1
    assert count_looks(out, run.history) == 3  # two epochs were watched
    assert "2 of them after an epoch" in said(text_of(run))
    for words in (
        ["evaluate", out, split_photos],
        ["evaluate", out / "model.safetensors", split_photos, "--split", "all"],
        ["evaluate", out, split_photos, "--split", "train"],  # none
        ["evaluate", out, split_photos, "--split", "val"],  # none
        ["evaluate", out / "checkpoints" / "best.safetensors", split_photos],
        ["evaluate", out, split_photos / "test"],  # the same pictures, named otherwise
        ["report", out],
    ):
        monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
        main()
    looks = looks_of(out)
    assert len(looks) == 6
    assert looks[1]["command"] == shlex.join(["reslab", "evaluate", str(out), str(split_photos)])
    assert looks[5]["command"].startswith("reslab report")
    assert all(re.match(r"\d{4}-\d\d-\d\dT", look["date"]) for look in looks)
    assert count_looks(out, run.history) == 8
    elsewhere = tmp_path / "else"
    fill(elsewhere, 4, start=900)
    reslab.evaluate(out, elsewhere, quiet=True)  # other pictures than the run's
    assert len(looks_of(out)) == 6
    reslab.train(split_photos, out=out, epochs=1, overwrite=True, **SETTINGS)
    assert len(looks_of(out)) == 1  # of another run, which nobody has looked at


def test_no_look_is_lost(split_photos, tmp_path):
    """Whatever happened to the record: a torn line, garbage, several commands at once."""
    run = reslab.train(split_photos, out=tmp_path / "run", epochs=1, **SETTINGS)
    with (run.path / "looks.jsonl").open("ab") as file:
        file.write(b'null\n{"date": "2026-11-24T2')  # the power failed
    reslab.evaluate(run.path, split_photos, quiet=True)
    assert len(looks_of(run.path)) == 4
    assert looks_of(run.path)[3]["command"] == "reslab.evaluate(...)"
    threads = [
        threading.Thread(target=note_look, args=(run.path, "evaluate", 24)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks_of(run.path)) == 24


def test_what_cannot_be_reported_is_told(run, split_photos, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        reslab.report([tmp_path / "absent"])
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(InputError, match="is not a page of reslab's"):
        reslab.report([run.path], out=tmp_path / "mine.html", quiet=True)
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    shutil.copytree(run.path, tmp_path / "old")
    old = open_run(tmp_path / "old")
    test = {key: value for key, value in run.test.items() if key != "per_class"}
    for name in ("arrangement", "began", "language", "class_counts"):
        del old.info[name]
    old.write_info(test=test)
    with pytest.raises(InputError, match=r"trained by reslab 0\.1\.0"):
        reslab.report([old.path], quiet=True)


def test_a_validation_that_could_not_be_judged_again_is_not_called_absent(run, tmp_path):
    """As at the end of a run by the clock on a machine that became slow."""
    shutil.copytree(run.path, tmp_path / "slow")
    slow = open_run(tmp_path / "slow")
    slow.write_info(validation=None)
    page = reslab.report([slow.path], quiet=True).read_text("utf-8")
    assert "there was no time to judge the validation" in page
    assert "Without a validation split" not in page
    assert "without a validation split" not in page
    assert '<span class="key validation">' in page


@pytest.mark.parametrize("low", [0.9, 0.9933, 0.9977, 0.9993, 0.99971])
def test_marks_of_an_axis_say_different_things(low):
    axis = percent_axis("accuracy", low, 1.0)
    marks = [axis.written(tick) for tick in axis.ticks]
    assert len(set(marks)) == len(marks)
    for tick, mark in zip(axis.ticks, marks, strict=True):
        assert float(mark.removesuffix(" %")) == pytest.approx(100 * tick, abs=1e-9)


def test_tensorboard_is_given_the_history(split_photos, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, epochs=3, tensorboard=True, **SETTINGS)
    found = accumulator.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    for name in ("train_loss", "validation_accuracy"):
        values = [(event.step, event.value) for event in found.Scalars(name)]
        expected = [(row["epoch"], pytest.approx(row[name])) for row in run.history]
        assert values == expected
    (events,) = (out / "tensorboard").iterdir()
    assert f"tensorboard/{events.name}" in json.loads((out / "run.json").read_text())["files"]
    reslab.train(split_photos, out=out, epochs=1, overwrite=True, **SETTINGS)
    assert not list((out / "tensorboard").iterdir())


# In a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_everywhere(browser, poor, width, scheme):
    """No request leaves it, nothing is wider than the screen, axe finds nothing serious."""
    size = {"width": width, "height": 900}
    url = (poor.path / "report.html").as_uri()
    with opened(browser, url, viewport=size, color_scheme=scheme) as page:
        for language in ("zh-Hans", "en"):
            assert page.evaluate("document.documentElement.lang") == language
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert axe_findings(page) == []
            visible = page.inner_text("main")
            assert ("Class by class" in visible) == (language == "en")
            assert ("逐类结果" in visible) == (language == "zh-Hans")
            page.click("#language")
        page.click("a[href='#mistakes']")
        assert [each for each in page.urls if not each.startswith("data:")] in (
            [url], [url, f"{url}#mistakes"]
        )  # fmt: skip
        assert page.troubles == []
        pdf = page.pdf()
    assert pdf.startswith(b"%PDF")


def test_a_heading_sorts(browser, poor):
    with opened(browser, (poor.path / "report.html").as_uri()) as page:
        rows = "[...document.querySelectorAll('.sortable tbody tr')]"
        recalls = f"{rows}.map((row) => row.cells[3].dataset.sort)"
        page.click(".sortable th:nth-child(4) button")
        page.click(".sortable th:nth-child(4) button")
        falling = [float(each) for each in page.evaluate(recalls)]
        assert falling == sorted(falling, reverse=True)
        head = page.locator(".sortable th:nth-child(4)")
        assert head.get_attribute("aria-sort") == "descending"
        page.keyboard.press("Enter")  # the heading has the focus
        rising = [float(each) for each in page.evaluate(recalls)]
        assert rising == falling[::-1]


def test_several_runs_on_one_page(browser, poor, split_photos, tmp_path):
    runs = [poor, reslab.train(poor.info["source"]["data"], out=tmp_path / "又一个", epochs=1,
                               **SETTINGS)]  # fmt: skip
    path = reslab.report([run.path for run in runs], out=tmp_path / "both.html", language="zh")
    with opened(browser, path.as_uri(), viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert axe_findings(page) == []
        assert "又一个" in page.inner_text("main")
        assert page.troubles == []
        assert page.urls == [path.as_uri(), *(u for u in page.urls if u.startswith("data:"))]


def test_each_stage_of_a_plan_is_told_in_both_languages():
    ladder = (Path(reslab.__file__).parent / "training/anytime/ladder.py").read_text("utf-8")
    names = re.findall(r'name="([^"]+)"|_trained\(work, \w+, "([^"]+)"', ladder)
    assert {one or other for one, other in names} == set(_CHINESE)
    stage = {"name": "last layers", "why": "from <b> on", "fields": {"train_from": "b", "views": 2}}
    assert say_stage(stage) == (
        '<span lang="en">last layers</span><span lang="zh-Hans">最后几层</span> <small>'
        '<span lang="en">from &lt;b&gt; on</span>'
        '<span lang="zh-Hans">从 b 起，用之前各层的缓存特征，每张图片 2 个视图</span></small>'
    )
    own = say_stage({"name": "{0}<i>", "why": "", "fields": {}})  # of a plan of one's own
    assert own.count("{0}&lt;i&gt;") == 2
