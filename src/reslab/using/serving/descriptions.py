"""What the OpenAPI description says of each path."""

from typing import Any

ALL = (
    "Classes and probabilities of pictures. A picture is the bytes of a JPEG, PNG, WebP, GIF, BMP,"
    " TIFF, PPM or AVIF file; nothing is fetched, and no path of the server is opened. What goes"
    ' wrong is answered as {"error": "..."}; 503 says when to come again in Retry-After.'
)
TOP = "How many classes to name."
UNKNOWN_BELOW = "Call a picture unknown whose likeliest class has less than this."
COVERAGE = "Name a set of classes that holds the picture's own with this chance, such as 0.95."
CLASS = "The class to explain; the likeliest if not given."
MAP = "Answer the map itself too: rows of numbers from 0 to 1, as large as the network's input."

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_WHY = {
    400: "The request is not what it says.",
    401: "A token is needed.",
    403: "The request comes from another site's page.",
    408: "The request came too slowly.",
    413: "Too many bytes or pictures.",
    421: "The server does not go by this name.",
    422: "What is asked cannot be answered.",
    503: "Full: come again after Retry-After seconds.",
    504: "No answer within the deadline.",
}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_GUESS = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "probability": _PROBABILITY},
    "required": ["label", "probability"],
}
_PREDICTION = {
    "type": "object",
    "properties": {
        "label": {"type": ["string", "null"], "description": "null where it cannot be read"},
        "probability": {"type": ["number", "null"]},
        "top": {"type": "array", "items": _GUESS, "description": "the likeliest, best first"},
        "error": {"type": ["string", "null"]},
        "unknown": {"type": "boolean", "description": "where unknown_below is given"},
        "set": {"type": "array", "items": {"type": "string"}, "description": "with coverage"},
    },
    "required": ["label", "probability", "top", "error"],
}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_PARTS = {
    "schema": {
        "type": "object",
        "properties": {
            "pictures": {"type": "array", "items": {"type": "string", "format": "binary"}}
        },
        "required": ["pictures"],
    }
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _path(
    summary: str, description: str, schema: dict[str, Any], statuses: tuple[int, ...]
) -> dict[str, Any]:
    answers: dict[int, Any] = {
        status: {"description": _WHY[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in statuses
    }
    answers[200] = {"description": "Done.", "content": {"application/json": {"schema": schema}}}
    return {
        "summary": summary, "description": description, "responses": answers,
        "response_model": None,
    }  # fmt: skip


_ALWAYS = (400, 401, 403, 421)
_READING = (*_ALWAYS, 408, 413, 422, 503, 504)
PREDICT = _path(
    "Classes and probabilities of pictures",
    "One picture as the body, or several as the parts named pictures of multipart/form-data:"
    " answered in the order given, with an error for each that cannot be read.",
    _object(predictions={"type": "array", "items": _PREDICTION}),
    _READING,
) | {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"image/*": _FILE, "multipart/form-data": _PARTS},
        }
    }
}
EXPLAIN = _path(
    "Where the network looks",
    "Which places of the picture speak for a class (Grad-CAM): the picture as the body, answered as"
    " a PNG with the places marked from yellow to red.",
    _object(
        label={"type": "string"},
        probability=_PROBABILITY,
        layer={"type": "string"},
        overlay={"type": "string", "description": "data:image/png;base64,..."},
    ),
    _READING,
) | {"openapi_extra": {"requestBody": {"required": True, "content": {"image/*": _FILE}}}}
MODEL = _path(
    "The model",
    "Network, classes, preprocessing, temperature, and the limits of a request.",
    _object(
        version={"type": "string"},
        network={"type": "string"},
        classes={"type": "array", "items": {"type": "string"}},
        preprocessing={"type": "object"},
        temperature={"type": "number"},
        limits={"type": "object"},
    ),
    _ALWAYS,
)
HEALTHZ = _path(
    "Whether the server works", "503 where it should be started anew.",
    _object(alive={"type": "boolean"}), (400, 403, 421, 503),
)  # fmt: skip
READYZ = _path(
    "Whether the server takes requests", "503 where it is full or about to stop.",
    _object(ready={"type": "boolean"}), (400, 403, 421, 503),
)  # fmt: skip
METRICS = _path("Counters for Prometheus", "In its text format.", {}, _ALWAYS)
METRICS["responses"][200]["content"] = {"text/plain": {"schema": {"type": "string"}}}
