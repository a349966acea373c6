"""The application behind the page: JSON about images, the images, decisions and blind tests."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffaug.errors import DiffaugError, UsageError
from diffaug.synthesis.decisions import Judgment, checked_name
from diffaug.synthesis.review.blind import Question, draw_questions, score
from diffaug.synthesis.review.gallery import Show
from diffaug.synthesis.review.review import Review

MOST_IMAGES, MOST_BYTES, MOST_TESTS = 200, 10_000, 100
FILES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
Number = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class RowsQuery:
    """Which synthetic images of a class are listed."""

    class_index: Number
    reviewer: Text = ""
    show: Show = "all"
    order: Text = ""


@dataclass(frozen=True)
class DecisionRequest:
    """A decision of a reviewer about a synthetic image; without `decision` it is to be taken back."""

    number: Number
    reviewer: Text
    decision: Judgment | None = None


@dataclass(frozen=True)
class TestRequest:
    """A blind test about one class, or about all of them."""

    count: Annotated[int, Field(ge=1, le=200)]
    class_index: Number | None = None


@dataclass(frozen=True)
class AnswerRequest:
    """What is the next image of a blind test?"""

    test: Text
    position: Number
    answer: Literal["real", "synthetic"]


@dataclass
class _Test:
    """A blind test in progress."""

    questions: list[Question]
    answers: list[bool] = field(default_factory=list)


class Application:
    """Answers the requests of the page for one review.

    Attributes:
        run: A name in the addresses of images, which a browser keeps, and would mix up with those of another study.
    """

    def __init__(self, review: Review, say: Callable[[str], None]) -> None:
        self.review, self._say = review, say
        self.run = secrets.token_hex(8)
        self._tests: dict[str, _Test] = {}

    def routes(self) -> Starlette:
        """The application for a server."""
        run = f"/images/{self.run}"
        return Starlette(
            routes=[
                Route("/", _file("page.html")),
                *(Route(f"/{name}", _file(name)) for name in FILES),
                Route("/api/study", _get(self.study)),
                Route("/api/classes", _get(self.classes)),
                Route("/api/rows", _get(self.rows)),
                Route("/api/images", _get(self.images)),
                Route("/api/decision", _post(self.decide), methods=["POST"]),
                Route("/api/test", _post(self.start_test), methods=["POST"]),
                Route("/api/answer", _post(self.answer), methods=["POST"]),
                Route(f"{run}/synthetic/{{number:int}}.png", _image(self.review.gallery.synthetic_png)),
                Route(f"{run}/real/{{number:int}}.png", _image(self.review.gallery.real_png)),
                Route(f"{run}/test/{{test}}/{{number:int}}.png", self.test_image),
            ]
        )

    def study(self, _: dict[str, str]) -> dict[str, Any]:
        """What does not change during a review."""
        gallery = self.review.gallery
        height, width = gallery.pool.image_size
        return {
            "study": self.review.study,
            "reviewer": self.review.reviewer,
            "images": f"/images/{self.run}",
            "height": height,
            "width": width,
            "scores": gallery.scores,
        }

    def classes(self, _: dict[str, str]) -> list[dict[str, Any]]:
        """The classes with their numbers of images and decisions."""
        return [asdict(one) for one in self.review.classes()]

    def rows(self, query: dict[str, str]) -> dict[str, list[int]]:
        """Numbers of the synthetic images of a class to show, and of all its real ones."""
        wanted = _typed(RowsQuery, query)
        if wanted.class_index >= len(self.review.gallery.classes):
            raise UsageError("there is no such class")
        synthetic = self.review.rows(wanted.class_index, wanted.reviewer.strip(), wanted.show, wanted.order)
        return {"synthetic": synthetic, "real": self.review.gallery.real_of(wanted.class_index).tolist()}

    def images(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """What is known of some synthetic images."""
        numbers = _typed(list[Number], [text for text in query.get("numbers", "").split(",") if text])
        if len(numbers) > MOST_IMAGES:
            raise UsageError(f"at most {MOST_IMAGES} images at once")
        return [asdict(one) for one in self.review.images(numbers)]

    def decide(self, content: bytes) -> dict[str, Any]:
        """Keeps a decision or takes it back; answers with the image as it is now."""
        wanted = _typed_json(DecisionRequest, content)
        if wanted.decision is None:
            return asdict(self.review.undo(wanted.number, checked_name(wanted.reviewer)))
        return asdict(self.review.decide(wanted.number, wanted.reviewer, wanted.decision))

    def start_test(self, content: bytes) -> dict[str, Any]:
        """Begins a blind test, whose images have names that don't tell what they are."""
        wanted, gallery = _typed_json(TestRequest, content), self.review.gallery
        classes = range(len(gallery.classes)) if wanted.class_index is None else [wanted.class_index]
        if max(classes, default=0) >= len(gallery.classes):
            raise UsageError("there is no such class")
        name = secrets.token_hex(8)
        self._tests[name] = _Test(draw_questions(gallery, classes, wanted.count, secrets.randbits(64)))
        for oldest in list(self._tests)[:-MOST_TESTS]:
            del self._tests[oldest]
        return {"test": name, "count": len(self._tests[name].questions)}

    def answer(self, content: bytes) -> dict[str, Any]:
        """Keeps the answer about the next image; after the last one, the score and what each image was."""
        wanted = _typed_json(AnswerRequest, content)
        test = self._test(wanted.test)
        if wanted.position != len(test.answers) or wanted.position >= len(test.questions):
            raise UsageError("this image was answered before", fix="begin another test")
        test.answers.append(wanted.answer == "synthetic")
        if len(test.answers) < len(test.questions):
            return {"left": len(test.questions) - len(test.answers)}
        found = score(test.questions, test.answers)
        self._say(f"blind test: {found.sentence()}")
        kinds = {"synthetic": found.of_synthetic, "real": found.of_real}
        return {
            "left": 0,
            "sentence": found.sentence(),
            "kinds": {name: [share.count, share.total] for name, share in kinds.items()},
            "synthetic": [question.is_synthetic for question in test.questions],
            "answers": test.answers,
        }

    async def test_image(self, request: Request) -> Response:
        """An image of a blind test."""
        test, number = self._tests.get(request.path_params["test"]), request.path_params["number"]
        if test is None or number >= len(test.questions):
            return Response(status_code=404)
        question, gallery = test.questions[number], self.review.gallery
        png = gallery.synthetic_png if question.is_synthetic else gallery.real_png
        return Response(await run_in_threadpool(png, question.number), media_type="image/png")

    def _test(self, name: str) -> _Test:
        if name not in self._tests:
            raise UsageError("this test is over", fix="begin another one")
        return self._tests[name]


def _file(name: str) -> Callable[[Request], Response]:
    content = files(__package__).joinpath("page", name).read_bytes()
    return lambda request: Response(content, media_type=FILES[name])


def _image(png: Callable[[int], bytes]) -> Callable[[Request], Response]:
    def respond(request: Request) -> Response:
        try:
            return Response(png(request.path_params["number"]), media_type="image/png", headers=FOR_EVER)
        except IndexError:
            return Response(status_code=404)
        except (DiffaugError, OSError) as error:
            return _refusal(error)

    return respond


def _get(function: Callable[[dict[str, str]], Any]) -> Callable[[Request], Response]:
    return lambda request: _answered(function, dict(request.query_params))


def _post(function: Callable[[bytes], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                return Response(status_code=413)
        return await run_in_threadpool(_answered, function, content)

    return respond


def _answered(function: Callable[[Any], Any], argument: Any) -> Response:
    try:
        return JSONResponse(function(argument))
    except (DiffaugError, OSError) as error:
        return _refusal(error)


def _refusal(error: DiffaugError | OSError) -> Response:
    """What went wrong, in words; the page shows it."""
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, DiffaugError) else 500)


def _typed(kind: Any, content: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise UsageError("the request is not one of this page", fix="load the page again") from error


def _typed_json(kind: Any, content: bytes) -> Any:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise UsageError("the request is not one of this page", fix="load the page again") from error
