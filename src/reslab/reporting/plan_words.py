"""What a stage of a training by the clock is called on a page, in English and Chinese."""

from typing import Any

from markupsafe import Markup

from reslab.reporting.words import marked

# By the stage's name: its name, and why it was. The plan itself says it in English.
_CHINESE = {
    "head": ("分类头", "在原样特征上求解"),
    "head on all": ("用上全部图片的分类头", "同一个分类头，连同选出它的验证图片一起求解"),
    "last layers": (
        "最后几层",
        "从 {train_from} 起，用之前各层的缓存特征，每张图片 {views} 个视图",
    ),
    "later layers": ("后面的层", "从 {train_from} 起，用完剩余的时间"),
    "all": ("所有层", "用完剩余的时间"),
    "first": ("最初的模型", "只用一小部分时间"),
    "longer": ("更长的训练", "从目前最好的权重出发，学习率按剩余的时间调度"),
}


def say_stage(stage: dict[str, Any]) -> Markup:
    """The name of a stage as run.json holds it, and why it was, marked with each language."""
    name, why = "{name}", "{why}"
    if stage["why"]:  # a plan of one's own may give no reason
        name, why = _CHINESE.get(stage["name"], (name, why))
    values = {"train_from": "", "views": ""} | stage["fields"]
    values |= {"name": stage["name"], "why": stage["why"]}
    return Markup("{} <small>{}</small>").format(
        marked(("{name}", name), values), marked(("{why}", why), values)
    )
