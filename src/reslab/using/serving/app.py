"""The interface for programs: paths, what they take and what they answer."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import reslab
from reslab.errors import InputError
from reslab.pictures.decoding import UnreadablePictureError
from reslab.using.classifier import Classifier
from reslab.using.explaining import marked_picture
from reslab.using.prediction import Asked, Explanation, told
from reslab.using.serving import descriptions as says
from reslab.using.serving.access import WITHOUT_TOKEN, Access, Guard
from reslab.using.serving.bodies import ClientGoneError, read_pictures
from reslab.using.serving.desk import Desk, Order
from reslab.using.serving.limits import RefusedError
from reslab.using.serving.page import PAGE, docs_page

_DIGITS = 4  # of a map's numbers
_DRAWN_AT_ONCE = 2  # explanations: each decodes its picture once more
_GONE = 499  # seen by nobody
Told = TypeVar("Told")


@dataclass(frozen=True)
class Service:
    """What the paths work with. unknown_below: where a request does not say it itself."""

    classifier: Classifier
    desk: Desk
    access: Access
    unknown_below: float | None = None


def create_app(service: Service) -> ASGIApp:
    """The application; the desk must be open before it is asked anything."""
    app = FastAPI(
        title="reslab", version=reslab.__version__, description=says.ALL,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    _add_uses(app, service)
    _add_state(app, service)
    _add_page(app)
    _add_errors(app)
    if service.access.token is not None:
        _describe_token(app)
    paths = [str(getattr(route, "path", "")) for route in app.routes]
    return Guard(app, service.access, service.desk.metrics, paths)


def _add_uses(app: FastAPI, service: Service) -> None:
    desk, limits = service.desk, service.desk.limits
    drawing = ThreadPoolExecutor(_DRAWN_AT_ONCE, "reslab-drawing")

    @app.post("/predict", **says.PREDICT)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description=says.TOP)] = 5,
        unknown_below: Annotated[
            float | None, Query(ge=0, le=1, description=says.UNKNOWN_BELOW)
        ] = None,
        coverage: Annotated[float | None, Query(gt=0, lt=1, description=says.COVERAGE)] = None,
    ) -> Response:
        below = service.unknown_below if unknown_below is None else unknown_below
        asked = service.classifier.asked(top, unknown_below=below, coverage=coverage)
        desk.refuse_if_full()
        with desk.holding() as hold:
            pictures = await read_pictures(request, limits, hold)
            order = desk.take(pictures)
            await _in_time(desk, request, order, order.done)
        found = [_told(service, answer, asked) for answer in order.answers]
        return JSONResponse({"predictions": found})

    async def explained(order: Order, data: bytes) -> tuple[Explanation, bytes]:
        await order.done
        found = order.answers[0]
        if not isinstance(found, Explanation):
            raise found if isinstance(found, Exception) else TypeError(found)
        record, run = service.classifier.preprocessing, asyncio.get_running_loop().run_in_executor
        return found, await run(drawing, marked_picture, data, found, record)

    @app.post("/explain", **says.EXPLAIN)
    async def explain(
        request: Request,
        label: Annotated[str | None, Query(alias="class", description=says.CLASS)] = None,
        map: Annotated[bool, Query(description=says.MAP)] = False,
    ) -> Response:
        service.classifier.refuse_unknown_class(label)
        desk.refuse_if_full()
        with desk.holding() as hold:
            pictures = await read_pictures(request, limits, hold, several=False)
            order = desk.take(pictures, explain=True, label=label)
            drawn = asyncio.ensure_future(explained(order, pictures[0]))
            found, picture = await _in_time(desk, request, order, drawn)
        desk.metrics.pictures["explained"] += 1
        answer: dict[str, Any] = {
            "label": found.label,
            "probability": found.probability,
            "layer": found.layer,
            "overlay": "data:image/png;base64," + base64.b64encode(picture).decode(),
        }
        if map:
            answer["map"] = np.round(found.map.astype(float), _DIGITS).tolist()
        return JSONResponse(answer)


async def _in_time(
    desk: Desk, request: Request, order: Order, answer: "asyncio.Future[Told]"
) -> Told:
    """What is made of an order, waited for as long as its client does and its deadline allows."""
    desk.metrics.accepted += 1
    gone = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait(
            (answer, gone), timeout=desk.limits.deadline, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        gone.cancel()
        desk.give_up(order)
        answer.cancel()  # if it is not there
    if not answer.cancelled() and answer.done():
        desk.metrics.answered += 1
        return answer.result()
    if gone.done() and not gone.cancelled():
        desk.metrics.gone += 1
        raise ClientGoneError
    desk.metrics.late += 1
    raise RefusedError(504, f"no answer within {desk.limits.deadline:g} seconds")


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(service: Service, answer: object, asked: Asked) -> dict[str, Any]:
    pictures = service.desk.metrics.pictures
    if isinstance(answer, InputError):
        pictures["unreadable"] += 1
        reason = str(answer).removeprefix("picture: ")
        return {"label": None, "probability": None, "top": [], "error": reason}
    if not isinstance(answer, np.ndarray):
        raise answer if isinstance(answer, Exception) else TypeError(answer)
    pictures["predicted"] += 1
    found = told("", answer, service.classifier.classes, asked).as_dict()
    del found["path"]
    return {**found, "error": None}


def _add_state(app: FastAPI, service: Service) -> None:
    desk, model = service.desk, service.classifier.model

    @app.get("/model", **says.MODEL)
    async def model_() -> Response:
        limits = desk.limits
        return JSONResponse({
            "version": reslab.__version__,
            "network": model.spec.name,
            "classes": list(model.classes),
            "preprocessing": model.preprocessing.model_dump(mode="json"),
            "averaging": model.averaging,
            "temperature": model.temperature,
            "unknown_below": service.unknown_below,
            "calibration_pictures": len(model.held),
            "limits": {
                "picture_bytes": limits.picture_bytes,
                "body_bytes": limits.body_bytes,
                "pictures": limits.pictures,
            },
        })  # fmt: skip

    @app.get("/healthz", **says.HEALTHZ)
    async def healthz() -> Response:
        return JSONResponse({"alive": desk.alive}, 200 if desk.alive else 503)

    @app.get("/readyz", **says.READYZ)
    async def readyz() -> Response:
        ready = desk.alive and not desk.full()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    @app.get("/metrics", **says.METRICS)
    async def metrics() -> Response:
        text = desk.metrics.text({
            "waiting_pictures": ("Places of the queue that are taken.", desk.waiting),
            "held_bytes": ("Bytes of requests' bodies in memory.", desk.held),
        })  # fmt: skip
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _describe_token(app: FastAPI) -> None:
    """Say which paths ask for the token, so that the clients made of the description send it.

    Comes last: a path that is added later has FastAPI describe all anew.
    """
    description = app.openapi()
    description.setdefault("components", {})["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"}
    }
    for path, uses in description["paths"].items():
        if path not in WITHOUT_TOKEN:
            for use in uses.values():
                use["security"] = [{"token": []}]


def _add_page(app: FastAPI) -> None:
    for path, (data, kind) in PAGE.items():

        def send(data: bytes = data, kind: str = kind) -> Response:
            return Response(data, media_type=kind)

        async def get(_: Request, send: Any = send) -> Response:
            # `send` is bound by its default, which FastAPI's signature has as Any.
            return send()  # type: ignore[no-any-return]

        app.add_route(path, get, methods=["GET"], include_in_schema=False)
    docs = docs_page(app.openapi())

    async def docs_(_: Request) -> Response:
        return Response(docs, media_type="text/html; charset=utf-8")

    app.add_route("/docs", docs_, methods=["GET"], include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, message: str, **headers: str) -> Response:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        if error.retry_after is None:
            return answer(error.status, str(error))
        return answer(error.status, str(error), **{"Retry-After": str(error.retry_after)})

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> Response:
        return answer(422, str(error).removeprefix("picture: "))

    @app.exception_handler(UnreadablePictureError)
    async def unreadable(_: Request, error: UnreadablePictureError) -> Response:
        return answer(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(ClientGoneError)
    async def gone(_: Request, error: ClientGoneError) -> Response:
        return answer(_GONE, "gone")
