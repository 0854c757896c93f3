"""Images of a request come as data URLs within limits, and become as many tokens as in llama.cpp."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from manager.engines.hf.images import LIMITS, Limits, prepare, take_images
from manager.engines.hf.loading.load import LoadedModel, load
from manager.engines.hf.runtime import bring_in
from manager.entry import ModelEntry
from manager.errors import InvalidRequest
from manager.params import HfParams
from tests.hf_models import tiny_vision

VISION: Any = SimpleNamespace(
    kind="vision",
    processor=SimpleNamespace(image_token="<image>", video_token=None, image_token_id=7, eos_token="</s>"),
    tokenizer=SimpleNamespace(special_tokens_map={"boi_token": "[IMG]"}),
)
RED = (200, 30, 30)


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    bring_in()


@pytest.fixture(scope="module")
def loaded(tiny_vision_folder: Path) -> LoadedModel:
    return loaded_from(tiny_vision_folder)


def loaded_from(folder: Path) -> LoadedModel:
    entry = ModelEntry(name="tiny", path=folder, params=HfParams(model=str(folder)), engine="hf")
    return load(entry, lambda _: None)


def written(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(size: tuple[int, int] = (100, 80), mode: str = "RGB", color: Any = RED) -> Image.Image:
    return Image.new(mode, size, color)


def part(data: bytes, kind: str = "png") -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def asked(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]


def taken(data: bytes) -> Image.Image:
    _, [image] = take_images(VISION, asked(part(data)))
    return image


def refusal(*parts: dict[str, Any], to: Any = VISION, limits: Limits = LIMITS) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        take_images(to, asked(*parts), limits)
    return caught.value


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_each_format_is_read(form: str) -> None:
    image = taken(written(picture(), form))
    assert (image.mode, image.size) == ("RGB", (100, 80))
    pixel: Any = image.getpixel((50, 40))
    assert all(abs(got - wanted) < 8 for got, wanted in zip(pixel, RED, strict=True))


def test_messages_keep_everything_but_the_images_in_their_places() -> None:
    system = {"role": "system", "content": "Be short."}
    [user] = asked(part(written(picture((1, 1)))), {"type": "text", "text": "and"}, part(written(picture((2, 2)))))
    messages, found = take_images(VISION, [system, {**user, "name": "x"}])
    assert messages == [
        system,
        {
            "role": "user",
            "name": "x",
            "content": [
                {"type": "image"},
                {"type": "text", "text": "and"},
                {"type": "image"},
                {"type": "text", "text": "What is this?"},
            ],
        },
    ]
    assert [image.size for image in found] == [(1, 1), (2, 2)]
    assert user["content"][0]["type"] == "image_url"  # the request itself is left as it was


def test_url_may_stand_for_itself() -> None:
    url = part(written(picture()))["image_url"]["url"]
    _, [image] = take_images(VISION, asked({"type": "image_url", "image_url": url}))
    assert image.size == (100, 80)


def test_photo_is_turned_the_right_way_up() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert taken(written(picture((100, 80)), "JPEG", exif=exif)).size == (80, 100)


def test_of_an_animation_the_first_picture_counts() -> None:
    data = written(picture(color=(0, 0, 255)), "GIF", save_all=True, append_images=[picture(color=(0, 255, 0))])
    assert taken(data).getpixel((1, 1)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 128, (128, 128, 128)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("LA", (77, 0), (77, 77, 77)),
        ("I;16", 0x8000, (128, 128, 128)),
    ],
)
def test_every_kind_of_pixel_becomes_red_green_blue(mode: str, color: Any, expected: tuple[int, ...]) -> None:
    assert taken(written(picture(mode=mode, color=color))).getpixel((1, 1)) == expected


def test_image_from_elsewhere_is_not_fetched() -> None:
    error = refusal({"type": "image_url", "image_url": {"url": "https://127.0.0.1/secret.png"}})
    assert error.param == "messages[0].content[0]"
    assert "data URL" in error.message
    assert "secret" not in error.message


def test_file_is_not_read() -> None:
    assert "data URL" in refusal({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}).message


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "no image_url.url"),
        ({}, "no image_url.url"),
        ({"url": 5}, "no image_url.url"),
        ({"url": "data:image/png;base64"}, "data URL"),
        ({"url": "data:image/png,abcd"}, "data URL"),
        ({"url": "data:text/html;base64,abcd"}, "data URL"),
        ({"url": "data:image/png;base64,ab c="}, "not base64"),
        ({"url": "data:image/png;base64,abc"}, "not base64"),
        ({"url": "data:image/png;base64,ab_-"}, "not base64"),
        ({"url": "data:image/png;base64,é"}, "not base64"),
        ({"url": "data:image/png;base64,"}, "no image that can be read"),
        ({"url": "data:image/png;base64,aGVsbG8="}, "no image that can be read"),
    ],
)
def test_what_is_no_image_is_refused_by_its_place(image: Any, words: str) -> None:
    good = part(written(picture()))
    error = refusal(good, {"type": "image_url", "image_url": image})
    assert words in error.message
    assert error.param == "messages[0].content[1]"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_cut_off_image_is_refused(form: str) -> None:
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    data = written(noise, form)
    assert "no image that can be read" in refusal(part(data[: len(data) // 2])).message


def test_other_formats_are_refused_whatever_they_call_themselves() -> None:
    assert "no image that can be read" in refusal(part(written(picture(), "TIFF"))).message


def huge(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head promises many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


@pytest.mark.parametrize("side", [8_001, 10_000, 100_000])
def test_too_many_pixels_are_refused_before_they_are_unpacked(side: int) -> None:
    assert "too many pixels" in refusal(part(huge(side, side))).message


def test_pixels_of_all_images_count_together() -> None:
    limits = Limits(pixels=10_000)
    small, rest = part(written(picture((80, 80)))), part(written(picture((60, 60))))
    take_images(VISION, asked(small, rest), limits)
    error = refusal(small, rest, part(written(picture((1, 1)))), limits=limits)
    assert error.param == "messages[0].content[2]"
    assert "too many pixels" in error.message


def test_too_many_bytes_are_refused() -> None:
    data = written(picture())
    limits = Limits(bytes=len(data))
    take_images(VISION, asked(part(data)), limits)
    assert "larger than" in refusal(part(data + bytes(3)), limits=limits).message


def test_too_many_images_are_refused() -> None:
    one = part(written(picture((1, 1))))
    assert len(take_images(VISION, asked(*[one] * 16))[1]) == 16
    assert refusal(*[one] * 17).param == "messages[0].content[16]"


def test_text_model_takes_no_image() -> None:
    error = refusal(part(written(picture())), to=SimpleNamespace(kind="text"))
    assert error.message == "'messages[0].content[0]': this model takes text only, no 'image_url'."


def test_mark_of_an_image_where_no_text_was_is_refused(loaded: LoadedModel) -> None:
    messages, found = take_images(loaded, asked(part(written(picture()))))
    with pytest.raises(InvalidRequest, match="don't fit"):
        prepare(loaded, [*messages, {"role": "user", "content": "<image>"}], found)


def test_vision_model_takes_no_sound() -> None:
    error = refusal({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})
    assert error.message == "'messages[0].content[0]': this model takes texts and images only, no 'input_audio'."


def test_tokens_of_images_stand_in_their_places(loaded: LoadedModel) -> None:
    image = loaded.model.config.image_token_id
    counts = []
    for number in range(3):
        messages, found = take_images(loaded, asked(*[part(written(picture()))] * number))
        tokens, media = prepare(loaded, messages, found)
        counts.append(len(tokens))
        # Four tiles of an image and the whole of it, each of four tokens.
        assert tokens.count(image) == number * 20
        assert (media["pixel_values"].shape[1] if number else 0) == number * 5
        assert "input_ids" not in media
        assert "attention_mask" not in media
    assert counts[2] - counts[1] == counts[1] - counts[0]


def test_rendered_prompt_is_taken_as_messages_are(loaded: LoadedModel) -> None:
    messages, found = take_images(loaded, asked(part(written(picture()))))
    text = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prepare(loaded, text, found)[0] == prepare(loaded, messages, found)[0]


def test_model_takes_what_is_prepared(loaded: LoadedModel) -> None:
    """Two prompts that differ in their image only have different answers."""
    import torch

    loaded.model.set_attn_implementation("sdpa")
    logits = []
    for color in ((255, 0, 0), (0, 0, 255)):
        tokens, media = prepare(loaded, *take_images(loaded, asked(part(written(picture(color=color))))))
        with torch.inference_mode():
            logits.append(loaded.model(input_ids=torch.tensor([tokens]), **media).logits[0, -1])
    assert not torch.allclose(logits[0], logits[1])


def test_part_without_type_is_refused_by_its_place() -> None:
    assert refusal({"text": "Hi"}).param == "messages[0].content[0]"
    assert refusal({"text": "Hi"}, to=SimpleNamespace(kind="text")).param == "messages[0].content[0]"


def test_what_stands_for_an_image_is_split_in_every_text_of_a_vision_model() -> None:
    text = "What is <image>, what [IMG] and </s>?"
    split = "What is < image>, what [ IMG] and </s>?"
    said: list[dict[str, Any]] = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
    ]
    messages, _ = take_images(VISION, said)
    assert messages == [
        {"role": "system", "content": split},
        {"role": "user", "content": [{"type": "text", "text": split}]},
    ]
    assert take_images(SimpleNamespace(kind="text"), said)[0] == said  # type: ignore[arg-type]
    assert said[0]["content"] == text


@pytest.mark.parametrize("number", [0, 1])
def test_mark_of_an_image_in_a_text_is_no_image(loaded: LoadedModel, number: int) -> None:
    image = part(written(picture()))
    messages, found = take_images(loaded, asked(*[image] * number, {"type": "text", "text": "<image>"}))
    tokens, _ = prepare(loaded, messages, found)
    assert tokens.count(loaded.model.config.image_token_id) == number * 20
    assert "< image>" in loaded.tokenizer.decode(tokens)


def test_tokens_are_counted_as_llama_cpp_counts_them(smollm2_folder: Path, tmp_path: Path) -> None:
    """The numbers are llama-server's for this model, converted to GGUF with its projector."""
    loaded = loaded_from(tiny_vision(tmp_path / "vision", tokenizer=smollm2_folder))
    counts = []
    for number in range(3):
        messages, found = take_images(loaded, asked(*[part(written(picture()))] * number))
        counts.append(len(prepare(loaded, messages, found)[0]))
    assert counts == [13, 46, 79]
