"""How a user names labelled pictures: written once, for every command and function that takes them.

A field below is an option of `train`, `evaluate` and `preview`, on the command line and in Python,
and stands in run.json, so that a resume finds the pictures again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from reslab.disk import expanded, user_path
from reslab.errors import InputError
from reslab.options import keywords_of

if TYPE_CHECKING:
    from reslab.pictures.reading import Track
    from reslab.pictures.table import Pictures


def _whole(item: Any) -> Any:
    """A path from the root on: a run may be resumed from another folder."""
    return str(user_path(item).absolute()) if isinstance(item, str | Path) else item


def _whole_if_there(item: Any) -> Any:
    """What does not exist is a built-in set, or a mistake to be named as it was written."""
    there = isinstance(item, str | Path) and bool(str(item)) and expanded(item)[0].exists()
    return _whole(item) if there else str(item)


_NAMED = {str | Path: "a path", str: "text", bool: "true or false"}
Location = Annotated[str, BeforeValidator(_whole), "path"]


class DataSource(BaseModel):
    """Labelled pictures as the user names them."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True
    )

    data: Annotated[str, BeforeValidator(_whole_if_there), "positional"]
    """A built-in set (digits, mnist, fashion-mnist, cifar10, cifar100), a folder, a list, a CSV, a
    zip of any of these; tar shards or Parquet files (a folder of them, or such as
    train-{000..099}.tar), or a dataset that Hugging Face's library saved."""

    test: Location | None = None
    """The test list that goes with a list or CSV, or the test files with packed ones."""

    val: Location | None = None
    """The validation list that goes with a list or CSV, or the files with packed ones."""

    root: Location | None = None
    """The folder a list's paths are relative to; the list's own if not given."""

    data_root: Location | None = None
    """Where built-in data lies; else RESLAB_DATA, else the cache."""

    leave_out_unreadable: bool = Field(
        default=False,
        validation_alias=AliasChoices("leave_out_unreadable", "leave_out"),  # as 0.1.0 wrote it
    )
    """Go on without pictures that cannot be read, and list them."""

    without: Location | None = None
    """A table of issues, as `reslab check` writes it: what it names as harmful is left out, but of
    the test split only what cannot be read."""

    kinds: str | None = None
    """With --without, and check's --write-lists: the kinds of issues to leave out, with commas
    between, of every split; such as label,near-copy."""

    @classmethod
    def named(cls, data: str | Path, options: Mapping[str, Any] | None = None) -> "DataSource":
        """From what the user gave. Raises InputError for an option of another type."""
        options = options or {}
        kinds = keywords_of(cls)
        for name, value in options.items():
            if not isinstance(value, kinds[name]):
                raise InputError(f"{name} = {value!r}: should be {_NAMED[kinds[name]]}")
        try:
            return cls(data=data, **options)  # type: ignore[arg-type]  # a Path becomes text when it is validated
        except ValidationError as error:  # a path that can be none
            reason = str(error.errors()[0]["ctx"]["error"])
            raise InputError(f"{error.errors()[0]['loc'][0]}: {reason}") from None

    def open(self, classes: tuple[str, ...] | None = None) -> "Pictures":
        """The table of the pictures; none is read yet. `classes` are a model's own."""
        from reslab.pictures.sources import open_pictures

        if self.kinds is not None and self.without is None:
            raise InputError(
                f"--kinds {self.kinds}: goes with --without issues.csv, or with --write-lists"
            )
        pictures = open_pictures(
            self.data,
            test=self.test,
            val=self.val,
            root=self.root,
            data_root=self.data_root,
            classes=classes,
        )
        if self.without is None:
            return pictures
        from reslab.pictures.issue_table import without_named

        return without_named(pictures, self.without, self.kinds)

    def read(self, track: "Track | None" = None) -> "Pictures":
        """Open the data and check every picture. Raises InputError with all that is wrong."""
        from reslab.pictures.files import has_control_characters

        pictures = self.open()
        if len(pictures.classes) < 2:
            only = ", ".join(pictures.classes)
            raise InputError(f"{pictures.name}: only one class, {only!r}; a classifier needs two")
        strange = [repr(name) for name in pictures.classes if has_control_characters(name)]
        if strange:
            raise InputError(f"{pictures.name}: control characters in names of classes:", strange)
        blank = [repr(name) for name in pictures.classes if name != name.strip()]
        if blank:
            raise InputError(
                f"{pictures.name}: names of classes begin or end with a blank, which lists and"
                " tables do not keep; rename them:",
                blank,
            )
        return self.with_keys(pictures, track)

    def with_keys(self, pictures: "Pictures", track: "Track | None" = None) -> "Pictures":
        """Every picture read once, as `reslab.pictures.reading.with_keys` does."""
        from reslab.pictures.reading import untracked, with_keys

        return with_keys(pictures, leave_out=self.leave_out_unreadable, track=track or untracked)
