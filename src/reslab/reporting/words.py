"""Every text of the pages, in English and Chinese; both stand in the page, one is shown."""

import locale
import os

from markupsafe import Markup, escape

from reslab.errors import InputError
from reslab.reporting.check_words import CHECK_TEXTS

LANGUAGES = {"en": "en", "zh": "zh-Hans"}  # as options name them, and as HTML does

_TEXTS: dict[str, tuple[str, str]] = CHECK_TEXTS | {
    "report_title": ("{recipe} on {data}", "{recipe}，数据 {data}"),
    "comparison_title": ("{n} runs compared", "{n} 次训练的比较"),
    "contents": ("Contents", "目录"),
    "result": ("Result", "结果"),
    "result_test": (
        "Of {n} test pictures that it had never seen, the network named {correct} correctly.",
        "在 {n} 张从未见过的测试图片中，网络认对了 {correct} 张。",
    ),
    "result_sample": (
        "They are a sample of {of}, drawn by the seed: there was no time for all.",
        "它们是按种子从 {of} 张中抽取的一部分：时间不够评判全部。",
    ),
    "result_interval": (
        "On other pictures of the same kind, expect between {low} and {high} (95 % interval).",
        "对同类的其他图片，可以预期 {low} 到 {high}（95 % 置信区间）。",
    ),
    "result_guess": (
        "Always naming the commonest class, {name}, would have been right for {share}.",
        "总是回答最常见的类别“{name}”，也能答对 {share}。",
    ),
    "result_validation": (
        "This run has no test split. Of {n} validation pictures, which also chose the weights and"
        " so flatter, the network named {correct} correctly.",
        "这次训练没有测试集。在 {n} 张验证图片中（它们也用来挑选权重，所以结果偏高），网络认对了"
        " {correct} 张。",
    ),
    "result_folds": (
        "This run has no test split. Cross-validated, {correct} of {n} training pictures were named"
        " correctly by heads solved without them; the strength was chosen so too, so it flatters.",
        "这次训练没有测试集。交叉验证：{n} 张训练图片中，未见过它们的分类头认对了 {correct} 张；"
        "正则化强度也由此选出，所以结果偏高。",
    ),
    "result_none": (
        "This run has neither a test nor a validation split: nothing says how good it is.",
        "这次训练既没有测试集也没有验证集：无从得知它有多好。",
    ),
    "accuracy": ("accuracy", "准确率"),
    "top5": ("class among the five likeliest", "正确类别在前五之中"),
    "balanced": ("balanced accuracy", "平衡准确率"),
    "balanced_help": ("every class counts alike", "每个类别同等重要"),
    "macro_f1": ("macro F1", "宏平均 F1"),
    "ece": ("calibration error", "校准误差"),
    "ece_help": ("{raw} before calibration", "校准前 {raw}"),
    "brier": ("Brier score", "布里尔分数"),
    "brier_help": ("0 is perfect, 2 the worst", "0 最好，2 最差"),
    "looks": ("looks at the test split", "查看测试集的次数"),
    "looks_one": ("as it should be", "理应如此"),
    "looks_many": (
        "what is chosen by a score that was looked at often flatters",
        "反复查看并据此挑选，分数会偏高",
    ),
    "watched": (
        "{n} of them after an epoch, choosing nothing",
        "其中 {n} 次是在各轮结束后，不参与挑选",
    ),
    "intervals_in": ("95 %: {low} to {high}", "95 %：{low} 到 {high}"),
    "notes": ("To be noted", "注意"),
    "left_out": (
        "{n} picture(s) could not be read and were left out; run.json names them.",
        "{n} 张图片无法读取，已排除；run.json 列出了它们。",
    ),
    "samples": ("Samples", "样本"),
    "samples_help": (
        "Training pictures as the network sees them, without augmentation.",
        "网络看到的训练图片，未做增强。",
    ),
    "no_pictures": (
        "The pictures are not where they were, or have changed, so none are shown.",
        "图片已不在原处或已改变，因此不显示。",
    ),
    "data": ("Data", "数据"),
    "data_help": (
        "{train} training, {validation} validation and {test} test pictures in {classes} classes.",
        "{classes} 个类别：训练 {train} 张，验证 {validation} 张，测试 {test} 张。",
    ),
    "carved": (
        "Carved from the training pictures, as the data had none of its own: {splits}.",
        "数据没有自带、因而从训练图片中划出的部分：{splits}。",
    ),
    "folds": (
        "Validation is cross-validated in {folds} folds: {n} training pictures, each judged by"
        " heads solved without its fold.",
        "验证采用 {folds} 折交叉验证：{n} 张训练图片，每张都由求解时未用它所在那一折的分类头评判。",
    ),
    "not_judged": (
        "Not judged, as they have one training picture alone: {classes}.",
        "只有一张训练图片、无法评判的类别：{classes}。",
    ),
    "colon": (": ", "："),
    "class": ("class", "类别"),
    "train": ("training", "训练"),
    "validation": ("validation", "验证"),
    "test": ("test", "测试"),
    "network": ("Network", "网络"),
    "network_help": (
        "{name}: {parameters} parameters and {operations} multiply-adds a picture, for pictures of"
        " {height}x{width} pixels.",
        "{name}：{parameters} 个参数，每张图片 {operations} 次乘加，输入 {height}x{width} 像素。",
    ),
    "layers": ("Its {n} layers", "它的 {n} 个层"),
    "layer": ("layer", "层"),
    "kind": ("kind", "类型"),
    "output": ("output", "输出"),
    "parameters": ("parameters", "参数"),
    "operations": ("multiply-adds", "乘加次数"),
    "plan": ("What the time was used for", "时间用在了哪里"),
    "plan_minutes": ("It was given {minutes} min.", "总共有 {minutes} 分钟。"),
    "plan_repeated": ("A plan was repeated.", "重复了一份计划。"),
    "plan_chosen": (
        "Each stage began with the best weights before it, and only the validation split chose.",
        "每个阶段都从此前最好的权重开始，只由验证集挑选。",
    ),
    "plan_last": (
        "Each stage began with the last weights before it: so few validation pictures would have"
        " chosen by luck.",
        "每个阶段都从此前最后的权重开始：验证图片太少，挑选只能靠运气。",
    ),
    "plan_repeats": (
        "The same seed gives the same plan only where everything takes as long; plan.toml repeats"
        " this one exactly.",
        "只有各步耗时相同，同样的种子才会得到同样的计划；plan.toml 可以原样重复这一份。",
    ),
    "plan_stage": ("stage", "阶段"),
    "plan_seconds": ("seconds", "秒"),
    "plan_gain": ("gain", "提高"),
    "plan_diverged": ("(diverged)", "（发散）"),
    "plan_no_room": ("(no room for its features)", "（没有空间存放特征）"),
    "plan_outlook": (
        "Going by its course so far, twice the time would probably add about {gain} on validation.",
        "按目前的走势，再用一倍的时间，验证集上大概能再提高 {gain}。",
    ),
    "plan_unsure": (
        "That is less than so few validation pictures can tell.",
        "验证图片太少，分辨不出这么小的差别。",
    ),
    "curves": ("Curves", "曲线"),
    "curves_help": (
        "The weights of epoch {best} (counted from 0) were kept: the validation split chose them.",
        "保留了第 {best} 轮（从 0 数起）的权重：由验证集选出。",
    ),
    "curves_help_last": (
        "Without a validation split the last weights were kept.",
        "没有验证集，保留了最后的权重。",
    ),
    "curves_help_few": (
        "The last weights were kept: so few validation pictures would have chosen by luck.",
        "保留了最后的权重：验证图片太少，挑选只能靠运气。",
    ),
    "curves_strength": (
        "A solved head: the strength of regularisation {best} was kept.",
        "求解的分类头：保留了正则化强度 {best}。",
    ),
    "epoch": ("epoch", "轮次"),
    "strength": ("regularisation, from strong to weak", "正则化，由强到弱"),
    "loss": ("loss", "损失"),
    "watched_test": ("test, watched", "测试（仅查看）"),
    "confusion": ("What is taken for what", "混淆矩阵"),
    "confusion_help": (
        "Rows are the true classes, columns what the network said; the darker, the larger the share"
        " of the row.",
        "行是真实类别，列是预测类别；颜色越深，占该行的比例越大。",
    ),
    "confusion_large": (
        "Each point is a true class (from the top) and what the network said (from the left); the"
        " darker, the more often. A perfect network shows the diagonal alone.",
        "每个点对应一个真实类别（自上而下）和预测类别（自左而右）；颜色越深次数越多。完美的网络只有对角线上有点。",
    ),
    "said": ("said", "预测类别"),
    "true": ("true", "真实类别"),
    "pairs": ("Most confused", "最常混淆"),
    "pairs_times": ("times", "次数"),
    "pairs_share": ("share of the class", "占该类的比例"),
    "no_mistakes": ("No picture was named wrongly.", "图片全部认对。"),
    "classes": ("Class by class", "逐类结果"),
    "classes_help": (
        "Precision: of the pictures that were called so, how many are. Recall: of those that are,"
        " how many were called so. Below each its 95 % interval. A heading sorts.",
        "精确率：判为该类的图片中，真正属于该类的比例。召回率：属于该类的图片中，被认出的比例。"
        "下方是 95 % 置信区间。点击表头可排序。",
    ),
    "pictures": ("pictures", "图片数"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "confidence": ("How far it can be believed", "概率有多可信"),
    "confidence_help": (
        "Where the network says 80 %, it should be right in 80 % of the cases: the dots should lie"
        " on the line; a larger dot stands for more pictures.",
        "网络给出 80 % 的概率时，应当有 80 % 是对的：圆点应落在对角线上，圆点越大图片越多。",
    ),
    "temperature_fitted": (
        "Class scores were divided by a temperature of {temperature} before they became"
        " probabilities; it was fitted on the validation split.",
        "各类别得分先除以温度 {temperature} 再换算成概率，温度由验证集拟合。",
    ),
    "temperature_folds": (
        "Class scores were divided by a temperature of {temperature} before they became"
        " probabilities; it was fitted on cross-validated training pictures.",
        "各类别得分先除以温度 {temperature} 再换算成概率，温度由交叉验证的训练图片拟合。",
    ),
    "temperature_kept_folds": (
        "They are shown as the network gives them: cross-validation did not clearly call for"
        " another temperature.",
        "概率按网络原样给出，未做校准：交叉验证没有明确显示需要调整温度。",
    ),
    "temperature_kept": (
        "They are shown as the network gives them: the validation split did not clearly call for"
        " another temperature.",
        "概率按网络原样给出，未做校准：验证集没有明确显示需要调整温度。",
    ),
    "temperature_no_time": (
        "They are shown as the network gives them: there was no time to judge the validation"
        " pictures once more and fit a temperature.",
        "概率按网络原样给出，未做校准：时间不够，没能再次评估验证图片来拟合温度。",
    ),
    "temperature_none": (
        "They are shown as the network gives them: without a validation split nothing could be"
        " fitted.",
        "概率按网络原样给出，未做校准：没有验证集，无从拟合温度。",
    ),
    "reliability": ("said and true", "可靠性图"),
    "said_probability": ("probability that it says", "网络给出的概率"),
    "was_right": ("how often it was right", "实际正确的比例"),
    "calibrated": ("as shown", "校准后"),
    "raw": ("before calibration", "校准前"),
    "coverage": ("fewer answers, fewer mistakes", "少答则少错"),
    "coverage_share": ("share of pictures that are answered", "作答的图片比例"),
    "coverage_table": (
        "What is left if less sure answers are called unknown (--unknown-below)",
        "把不够确定的预测记为“未知”（--unknown-below）之后",
    ),
    "at_least": ("at least", "至少"),
    "answered": ("answered", "作答"),
    "right_then": ("of these right", "其中正确"),
    "mistakes": ("The most confident mistakes", "最自信的错误"),
    "mistakes_help": (
        "What the network saw, and where it looked for its answer: the redder, the more that place"
        " spoke for it. Mind that the true label itself may be wrong.",
        "网络看到的图片，以及它作答所依据的位置：越红，越支持它的回答。也要留意标签本身可能有误。",
    ),
    "no_maps": (
        "This network has no layer that shows where it looks.",
        "该网络没有能显示注意位置的层。",
    ),
    "said_is": ("said {label}, {share}", "预测为 {label}，{share}"),
    "true_is": ("true {label}", "实际是 {label}"),
    "again": ("Do it again", "重新运行"),
    "again_help": (
        "In the run folder: the same command gives the same weights on the same machine.",
        "在这次运行的文件夹中：同样的命令在同一台机器上得到同样的权重。",
    ),
    "use": ("use it", "使用它"),
    "recipe": ("The whole recipe", "完整配方"),
    "circumstances": (
        "seed {seed}; {device}, {threads} threads, {precision}; reslab {reslab}, torch {torch},"
        " Python {python}",
        "种子 {seed}；{device}，{threads} 个线程，{precision}；reslab {reslab}，torch {torch}，"
        "Python {python}",
    ),
    "language": ("中文", "English"),
    "run": ("run", "运行"),
    "scores": ("Scores", "分数"),
    "difference": ("difference", "差异"),
    "differences": ("What differs", "不同之处"),
    "no_differences": ("Their recipes are the same.", "它们的配方相同。"),
    "luck": ("More than luck?", "不只是运气？"),
    "luck_help": (
        "On the same test pictures: how much more the second run names correctly, the 95 % interval"
        " of that (bootstrap over pictures), and how likely at least so uneven a count of pictures"
        " that one alone got right would be between equally good networks (exact McNemar test).",
        "在同样的测试图片上：第二次运行多答对多少，及其 95 % 置信区间（对图片做自助抽样）；"
        "若两个网络同样好，“只有一方答对”的图片数至少相差这么多的概率（McNemar 精确检验）。",
    ),
    "first_only": ("only the first right", "仅第一个对"),
    "second_only": ("only the second right", "仅第二个对"),
    "p_value": ("p", "p 值"),
    "verdict": ("verdict", "结论"),
    "is_better": ("{name} is better", "{name} 更好"),
    "no_verdict": ("may be luck", "可能只是运气"),
    "too_few": ("too few pictures tell them apart", "能区分二者的图片太少"),
    "many_pairs": (
        "With {n} pairs some differences look real by chance: the verdict goes by p values after"
        " Holm's correction.",
        "有 {n} 对比较，总会有差异碰巧显得真实：结论按 Holm 校正后的 p 值给出。",
    ),
    "made_by": ("Made by reslab. Nothing in this page comes from elsewhere.",
                "由 reslab 生成。本页不含任何外部内容。"),
}  # fmt: skip


def say(key: str, **values: object) -> Markup:
    """A text in all languages, marked with each; the page shows one of them."""
    return marked(_TEXTS[key], values)


def marked(texts: tuple[str, str], values: dict[str, object]) -> Markup:
    """A text in each of the languages, filled with the values and marked with the language."""
    return Markup("").join(
        Markup('<span lang="{}">{}</span>').format(code, _filled(text, values))
        for code, text in zip(LANGUAGES.values(), texts, strict=True)
    )


def say_in(language: str, key: str, **values: object) -> str:
    """A text in one language, plain."""
    return _TEXTS[key][list(LANGUAGES).index(language)].format(**values)


def say_svg(key: str, **attributes: object) -> Markup:
    """A text of a drawing in all languages."""
    given = Markup(" ").join(
        Markup('{}="{}"').format(name.replace("_", "-"), value)
        for name, value in attributes.items()
    )
    return Markup("").join(
        Markup('<text lang="{}" {}>{}</text>').format(code, given, text)
        for code, text in zip(LANGUAGES.values(), _TEXTS[key], strict=True)
    )


def _filled(text: str, values: dict[str, object]) -> Markup:
    return Markup(escape(text)).format(**values)


def choose_language(asked: str | None) -> str:
    """One of the languages: the one asked for, else the system's, else English.

    Raises InputError for one that there is not.
    """
    if asked is not None:
        if asked not in LANGUAGES:
            raise InputError(f"--language {asked}: choose from {', '.join(LANGUAGES)}")
        return asked
    said = [os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    first = next((one for one in said if one), None) or locale.getlocale()[0] or ""
    return "zh" if first.lower().startswith(("zh", "chinese")) else "en"
