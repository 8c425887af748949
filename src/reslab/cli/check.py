"""The doctor: check."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from reslab.cli.options import Data, Device, Json, Language, Quiet, keywords
from reslab.cli.printing import print_check, print_json
from reslab.pictures.data_source import DataSource


def check(
    data: Data,
    /,
    *,
    network: Annotated[
        str | None,
        Parameter(help="A pretrained network, by whose features labels and outliers are judged."),
    ] = None,
    weights: Annotated[
        str | None, Parameter(help="Its weights: a file, or pretrained to fetch published ones.")
    ] = None,
    model: Annotated[
        str | None,
        Parameter(help="A run folder or model file, in the place of --network and --weights."),
    ] = None,
    out: Annotated[str, Parameter(help="The folder for issues.csv and check.html.")] = "check",
    write_lists: Annotated[
        str | None,
        Parameter(
            help="Write train.txt, val.txt, test.txt and classes.txt without what is wrong to this"
            " folder, beside the reasons; --kinds says which kinds."
        ),
    ] = None,
    language: Language = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Look for what is wrong with a data set: copies, leaks, wrong labels, outliers, odd pictures.

    Writes issues.csv and check.html; changes, moves and deletes no picture. Labels and outliers
    are judged where a network is named, by --network and --weights or by --model.
    """
    from reslab.using.check import check as check_

    found = check_(
        data,
        network=network,
        weights=weights,
        model=model,
        out=out,
        write_lists=write_lists,
        language=language,
        device=device,
        quiet=quiet,
        **options,
    )
    if json:
        print_json(found.as_dict())
        return
    print_check(found)
    if found.not_judged:
        print(
            "not judged  likely wrong labels and outliers: name --network N --weights FILE, or"
            " --model RUN",
            file=sys.stderr,
        )


check.__annotations__["options"] = keywords(DataSource)
