"""What a finding says, in English; `reporting.check_words` has the same in Chinese."""

FINDINGS = {
    "tiny": "tiny: {width}x{height}",
    "long": "extreme shape: {width}x{height}",
    "plain": "nearly one colour",
    "dark": "dark",
    "light": "blown out",
    "blurred": "blurred",
    "grey": "grey among colour",
    "turned": "turned by its EXIF mark",
    "turned_many": "{share} of the pictures are turned by their EXIF mark; other programs may not",
    "none": "no pictures",
    "few": "only {count} pictures",
    "unequal": "{most} pictures of {large}, {least} of {small}",
    "habit_size": "{own} are of {value} pixels, {others} of the other classes",
    "habit_scale": "{own} have a shorter side of about {value} pixels, {others} of the others",
    "habit_square": "{own} are square, {others} of the other classes",
    "habit_wide": "{own} are wider than high, {others} of the other classes",
    "habit_high": "{own} are higher than wide, {others} of the other classes",
    "habit_grey": "{own} are grey, {others} of the other classes",
    "habit_colour": "{own} are in colour, {others} of the other classes",
    "habit_format": "{own} are {value} files, {others} of the other classes",
    "habit_camera": "{own} were taken by {value}, {others} of the other classes",
    "habit_folder": "{own} lie in the folder {value}, {others} of the other classes",
    "drawn": "classes are drawn otherwise than in train: {share} here, {of_train} there",
}


def told(finding: str, **values: object) -> str:
    return FINDINGS[finding].format(**values)
