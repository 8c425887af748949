"""The texts of the doctor's page, in English and Chinese."""

from reslab.checking.findings import FINDINGS

_CHINESE = {
    "tiny": "太小：{width}x{height}",
    "long": "长宽比过于极端：{width}x{height}",
    "plain": "几乎只有一种颜色",
    "dark": "过暗",
    "light": "过曝",
    "blurred": "模糊",
    "grey": "彩色图片中的灰度图",
    "turned": "带有 EXIF 方向标记",
    "turned_many": "{share} 的图片带有 EXIF 方向标记；其他程序未必会旋转",
    "alike": "{count} 张图片彼此过于相似，无法判断其中的近似副本",
    "none": "没有图片",
    "few": "只有 {count} 张图片",
    "unequal": "{large} 有 {most} 张，{small} 只有 {least} 张",
    "habit_size": "该类图片的 {own} 尺寸为 {value} 像素，其他类别只有 {others}",
    "habit_scale": "该类图片的 {own} 短边约为 {value} 像素，其他类别只有 {others}",
    "habit_square": "该类图片的 {own} 是正方形，其他类别只有 {others}",
    "habit_wide": "该类图片的 {own} 宽大于高，其他类别只有 {others}",
    "habit_high": "该类图片的 {own} 高大于宽，其他类别只有 {others}",
    "habit_grey": "该类图片的 {own} 是灰度图，其他类别只有 {others}",
    "habit_colour": "该类图片的 {own} 是彩色图，其他类别只有 {others}",
    "habit_format": "该类图片的 {own} 是 {value} 文件，其他类别只有 {others}",
    "habit_camera": "该类图片的 {own} 由 {value} 拍摄，其他类别只有 {others}",
    "habit_folder": "该类图片的 {own} 位于文件夹 {value}，其他类别只有 {others}",
    "drawn": "类别比例与训练集不同：这里占 {share}，训练集中占 {of_train}",
}

CHECK_TEXTS: dict[str, tuple[str, str]] = {
    "check_title": ("{data}: what is wrong with the data?", "{data}：数据有什么问题？"),
    "check_pictures": (
        "pictures were looked at; {named} of them are named below, and {wrong} for what harms a"
        " training or flatters a score.",
        "张图片已检查；下面列出其中 {named} 张，{wrong} 张会损害训练或使分数虚高。",
    ),
    "check_kept": (
        "No picture was changed, moved or deleted. issues.csv beside this page has every finding.",
        "没有改动、移动或删除任何图片。本页旁的 issues.csv 列出了全部发现。",
    ),
    "check_not_judged": (
        "Not judged: labels that are likely wrong, and outliers. That takes a network that has"
        " learned something: --network N --weights FILE, or --model RUN.",
        "未检查：可能错误的标签和离群图片。这需要一个训练过的网络："
        "--network N --weights FILE，或 --model RUN。",
    ),
    "check_more": ("{n} more stand in issues.csv.", "另有 {n} 条见 issues.csv。"),
    "check_nothing": ("Nothing was found.", "没有发现问题。"),
    "check_next": ("What to do", "下一步"),
    "check_next_help": (
        "Train without what is named, or write cleaned lists. Pictures of the test split stay in it"
        " unless you name the kinds yourself: a test without what is hard flatters.",
        "训练时排除这些图片，或写出清理后的列表。除非你自己指定种类，测试集的图片都会保留："
        "去掉难认的图片，测试分数会虚高。",
    ),
    "check_labelled": ("labelled {label}", "标签 {label}"),
    "check_suggests": ("looks like {label}", "看起来像 {label}"),
    "check_agrees": ("{share} agrees", "相似度 {share}"),
    "kind_leak": ("Leaks between splits", "划分之间的泄漏"),
    "kind_leak_help": (
        "These pictures are learned from or chosen by, and a copy of them stands in a later split:"
        " the score there flatters.",
        "这些图片用于学习或挑选，而验证集或测试集里有它们的副本：在那里测得的分数会虚高。",
    ),
    "kind_conflicting-copy": ("Copies whose labels disagree", "标签不一致的副本"),
    "kind_conflicting-copy_help": (
        "The same picture stands under two classes: one of them is wrong.",
        "同一张图片属于两个类别：其中一个是错的。",
    ),
    "kind_unreadable": ("Files that cannot be read", "无法读取的文件"),
    "kind_unreadable_help": (
        "Training stops at these unless they are left out.",
        "除非排除，否则训练会在此停止。",
    ),
    "kind_label": ("Labels that are likely wrong", "可能错误的标签"),
    "kind_label_help": (
        "A head that did not see them holds another class at least four times as likely.",
        "没有见过它们的分类头认为，另一个类别的可能性至少是所给标签的四倍。",
    ),
    "kind_exact-copy": ("Exact copies", "完全相同的副本"),
    "kind_exact-copy_help": (
        "The same bytes or the same pixels as the picture beside them.",
        "与旁边的图片字节相同或像素相同。",
    ),
    "kind_near-copy": ("Near copies", "近似副本"),
    "kind_near-copy_help": (
        "The same picture as the one beside it, in another size, light, crop or turn.",
        "与旁边的是同一张图片，只是大小、明暗、裁剪或角度不同。",
    ),
    "kind_mismatched-type": ("Types that differ from their names", "类型与文件名不符"),
    "kind_mismatched-type_help": (
        "reslab reads them all the same; other programs may not.",
        "reslab 照样能读；其他程序未必。",
    ),
    "kind_outlier": ("Outliers", "离群图片"),
    "kind_outlier_help": (
        "Far from their class and from all others, as the network sees them.",
        "在网络看来，远离自己的类别，也远离其他所有类别。",
    ),
    "kind_odd": ("Odd pictures", "异常图片"),
    "kind_odd_help": (
        "Nothing may be wrong with them; they are worth a look.",
        "它们未必有问题，但值得一看。",
    ),
    "kind_set": ("The set as a whole", "整个数据集"),
    "kind_set_help": (
        "What a class or split has that the others have not, a network may learn in place of the"
        " subject.",
        "某个类别或划分独有的特点，网络可能会学它而不学内容本身。",
    ),
    **{
        f"finding_{key}": (english, _CHINESE[key]) for key, english in FINDINGS.items()
    },
}  # fmt: skip
