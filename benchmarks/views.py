"""How many views of a photo to keep: test accuracies of both heads, over seeds.

    python benchmarks/views.py                      the default recipe's augmentation
    python benchmarks/views.py --recipe photos-resnet152      the published one

On food10 with the real weights of tf_efficientnet_lite0. A seed draws the validation split, the
head's first weights and the order; the views stay the same, so that they are computed once.
"""

import statistics

from measuring import SHARED, food_folder, parser, table

import reslab

NETWORK = "tf_efficientnet_lite0"


def accuracy(
    given: object, head: str, views: int, seed: int, **more: object
) -> tuple[float, float]:
    """(test accuracy, seconds) of a run."""
    work, recipe = given.work, given.recipe
    run = reslab.train(
        food_folder(work),
        recipe=recipe,
        network=NETWORK,
        weights=SHARED / "weights" / f"{NETWORK}.safetensors",
        out=work / "views-run",
        overwrite=True,
        quiet=True,
        seed=seed,
        epochs=20 if head == "trained" else 10,
        precision=given.precision,
        lr=0.001,
        fields={"head": head, "views": views, "split.seed": seed, "optimizer.name": "adam",
                "schedule.name": "constant", "schedule.warmup": 0},
    )  # fmt: skip
    return run.test["accuracy"], run.info["seconds"]["total"]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--recipe", default="photos")
    options.add_argument("--views", default="20,8,4,2,1,0")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--precision", default="fp32")
    given = options.parse_args()
    rows = []
    for views in map(int, given.views.split(",")):
        for head in ("trained", "solved"):
            found = [accuracy(given, head, views, seed)[0] for seed in range(given.seeds)]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            text = f"{statistics.mean(found):.2%} ± {spread:.2%}"
            print(f"views {views:2}  {head:8} {text}", flush=True)
            rows.append((f"views {views}, {head}", text))
    table(f"{given.recipe} with {NETWORK} on food10, {given.seeds} seeds", rows)


if __name__ == "__main__":
    main()
