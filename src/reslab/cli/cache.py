"""The cache command."""

from typing import Annotated

from cyclopts import Parameter

from reslab.cli.options import Json
from reslab.cli.printing import print_json


def cache(
    *,
    prune: Annotated[
        str | None,
        Parameter(help="Delete what was used longest ago until this much is left, such as 5GB."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what the cache folder holds, and make it smaller. All of it can be made again."""
    from reslab.pictures.cache import KINDS, cache_folder, contents, size_of
    from reslab.pictures.cache import prune as prune_

    limit = None if prune is None else size_of(prune)
    deleted = [] if limit is None else prune_(limit, contents())
    held = contents()
    freed = sum(entry.size for entry in deleted)
    kinds = {
        kind: {
            "entries": sum(entry.kind == kind for entry in held),
            "bytes": sum(entry.size for entry in held if entry.kind == kind),
        }
        for kind in KINDS
    }
    total = sum(entry.size for entry in held)
    if json:
        print_json(
            {"folder": str(cache_folder()), "bytes": total, "kinds": kinds, "deleted": freed}
        )
        return
    for kind, found in kinds.items():
        print(f"{kind:10} {found['bytes'] / 1e6:10,.1f} MB  {KINDS[kind]}")
    print(f"{'in all':10} {total / 1e6:10,.1f} MB  in {cache_folder()}")
    if limit is not None:
        print(f"{'deleted':10} {freed / 1e6:10,.1f} MB")
