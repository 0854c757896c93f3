"""Images, as llama.cpp sees them with a projector: a random model, so that what is tested is what reaches it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai import OpenAI

from tests.e2e.service import Service, running
from tests.vision_gguf import MODEL, PROJECTOR

pytestmark = pytest.mark.timeout(180)

QUESTION: Final = "What is this?"
# A tile of 4 tokens, the whole image once more, and the marks around both (Idefics3).
TOKENS_OF_IMAGE: Final = 33
RED, BLUE = (200, 30, 30), (10, 20, 220)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, vision_gguf_folder: Path, launcher: Mapping[str, str]
) -> Iterator[Service]:
    """A service with a model of images and one of text."""
    folder = tmp_path_factory.mktemp("vision")
    (folder / "data").mkdir()
    text = {"model": MODEL, "threads": 1, "ctxSize": 2048}
    models = {"eyes": {"params": {**text, "mmproj": PROJECTOR}}, "blind": {"params": text}}
    (folder / "data" / "models.json").write_text(json.dumps(models))
    with running(folder, {"LLAMAHERD_STORAGE__MODELS_FOLDER": str(vision_gguf_folder), **launcher}) as service:
        yield service


def picture(colour: tuple[int, int, int], kind: str = "png") -> str:
    """A data URL of an image that llama.cpp need not scale much."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.new("RGB", (64, 64), colour)
    image.paste((255, 255, 255), (0, 0, 32, 16))
    image.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def shown(*urls: str) -> list[Any]:
    """A user's message with these images and a question."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": QUESTION}]}]


def looked_at(client: OpenAI, *urls: str) -> Any:
    return client.chat.completions.create(
        model="eyes",
        messages=shown(*urls),
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
        extra_body={"cache_prompt": False},
    )


def scores(answer: Any) -> list[tuple[str, float]]:
    return [(one.token, round(one.logprob, 4)) for one in answer.choices[0].logprobs.content[0].top_logprobs]


def test_each_image_is_counted_in_tokens(client: OpenAI) -> None:
    none, one, two = (looked_at(client, *urls).usage.prompt_tokens for urls in ((), [picture(RED)], [picture(RED)] * 2))
    assert (one - none, two - one) == (TOKENS_OF_IMAGE, TOKENS_OF_IMAGE)


def test_different_images_give_different_logits_and_the_same_image_the_same(client: OpenAI) -> None:
    red, blue = picture(RED), picture(BLUE)
    assert scores(looked_at(client, red)) == scores(looked_at(client, red))
    assert scores(looked_at(client, red)) != scores(looked_at(client, blue))
    assert scores(looked_at(client, red, blue)) != scores(looked_at(client, blue, red)), "in their order"


@pytest.mark.parametrize("kind", ["jpeg", "gif", "bmp"])
def test_images_of_other_kinds_are_seen(client: OpenAI, kind: str) -> None:
    answer = looked_at(client, picture(RED, kind))
    assert answer.usage.prompt_tokens > TOKENS_OF_IMAGE


def test_an_image_is_streamed_about(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="eyes",
            messages=shown(picture(BLUE)),
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage
    assert chunks[-1].usage.prompt_tokens > TOKENS_OF_IMAGE


def test_input_tokens_are_those_of_the_answer(client: OpenAI) -> None:
    counted: Any = client.post(
        "/chat/completions/input_tokens", body={"model": "eyes", "messages": shown(picture(RED))}, cast_to=object
    )
    assert counted["input_tokens"] == looked_at(client, picture(RED)).usage.prompt_tokens


BROKEN: Final = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/cat.png", "data URL"),
        ("file:///etc/passwd", "data URL"),
        ("data:image/png;base64,not base64", "base64"),
        ("data:image/png;base64," + base64.b64encode(b"this is text").decode(), "PNG"),
    ],
)
def test_what_is_no_image_is_a_bad_request_that_names_the_part(client: OpenAI, url: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as refusal:
        looked_at(client, picture(RED), url)
    assert refusal.value.param == "messages[0].content[1].image_url.url"


def test_an_image_that_only_begins_like_one_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        looked_at(client, f"data:image/png;base64,{BROKEN}")
    assert looked_at(client, picture(RED)).usage.prompt_tokens > TOKENS_OF_IMAGE, "the engine goes on"


def test_more_images_than_a_request_may_have_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 256"):
        looked_at(client, *[picture(RED)] * 257)


def test_a_model_without_projector_takes_no_image(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="text only") as refusal:
        client.chat.completions.create(model="blind", messages=shown(picture(RED)))
    assert refusal.value.param == "messages[0].content[0]"
