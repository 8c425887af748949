"""The serve command."""

import importlib.util
from typing import Annotated

from cyclopts import Parameter

from reslab.cli.options import Device, Model
from reslab.errors import InputError

_NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


def serve(
    model: Model,
    /,
    *,
    host: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0 for any that is free.")] = 8000,
    token_file: Annotated[
        str | None,
        Parameter(help="A file with a secret that requests must carry: Authorization: Bearer ..."),
    ] = None,
    open_: Annotated[
        bool, Parameter(name="--open", help="Let other machines ask without a token.",
                        negative=(), show_default=False),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        Parameter(help="Another name that clients may call the server by; may be repeated.",
                  negative=()),
    ] = None,
    unknown_below: Annotated[
        float | None,
        Parameter(help="Call a picture unknown whose likeliest class has less than this."),
    ] = None,
    queue: Annotated[
        int, Parameter(help="Pictures that may wait; more are refused with status 503.")
    ] = 256,
    deadline: Annotated[
        float, Parameter(help="Seconds within which a request is answered, else 504.")
    ] = 10.0,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Serve a model by HTTP: a page for people at /, an interface for programs at /docs.

    Other machines may ask only with --token-file or --open. Ctrl-C and SIGTERM end it once all that
    was accepted is answered.
    """
    absent = [pip for name, pip in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"serve: needs {', '.join(absent)}; run: pip install 'reslab[serve]', or pip install"
            f" {' '.join(absent)}"
        )
    if queue < 1:
        raise InputError(f"--queue {queue}: how many pictures may wait, at least 1")
    if not 0.1 <= deadline <= 600:
        raise InputError(f"--deadline {deadline:g}: seconds, from 0.1 to 600")
    from reslab.using.serving.limits import Limits
    from reslab.using.serving.serve import serve as serve_

    serve_(
        model,
        host=host,
        port=port,
        limits=Limits(waiting=queue, deadline=deadline),
        allow_host=allow_host or (),
        token_file=token_file,
        open_=open_,
        unknown_below=unknown_below,
        device=device,
    )
