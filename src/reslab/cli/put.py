"""The command that puts a model to use elsewhere: export."""

from typing import Annotated

from cyclopts import Parameter

from reslab.cli.options import Json, Quiet, flag
from reslab.cli.printing import print_json


def export(
    model: Annotated[str, Parameter(help="A run folder or its model file.")],
    /,
    *,
    format: Annotated[
        str, Parameter(help="onnx, for onnxruntime and others, or torch, for torch.export.load.")
    ] = "onnx",
    out: Annotated[
        str | None,
        Parameter(help="The file to write, .onnx or .pt2; beside the model if not given."),
    ] = None,
    int8: Annotated[
        bool,
        flag("Quantise weights and activations to 8 bits, and say what it costs in accuracy."),
    ] = False,
    check: Annotated[
        str | None,
        Parameter(help="A folder of pictures to check on; the run's validation split otherwise."),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a model for other runtimes; refused unless it agrees with predict.

    Pixels in, calibrated probabilities out: normalisation, averaging over views, temperature and
    softmax are inside. read_picture.py, written beside it, makes the pixels of picture files by
    numpy and Pillow alone. On up to 1,000 real pictures the likeliest class must be predict's, and
    no probability further from it than 0.0001. Of int8 at most 2 points of accuracy may be lost.
    """
    from reslab.using.exporting import export as export_

    found = export_(model, format=format, out=out, int8=int8, check=check, quiet=quiet)
    if json:
        print_json(found.as_dict())
        return
    print(
        f"checked     {found.checked:,} pictures ({found.pictures}): likeliest class equal on all,"
        f" largest difference {found.largest_difference:.1e}"
    )
    if found.int8 is not None:
        print(f"int8        {found.int8.told()}")
    print(f"reader      {found.reader}")
    print(f"written     {found.path}")
