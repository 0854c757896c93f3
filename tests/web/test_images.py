"""Images in the chat: chosen, pasted and dropped, on their way to a model that sees. Its weights are random."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page

from tests.e2e.service import Service, running
from tests.vision_gguf import MODEL, PROJECTOR
from tests.web.browser import expect, serious_faults
from tests.web.client import json_of
from tests.web.conftest import Visit
from tests.web.test_chat import ask, choose_model, done

pytestmark = pytest.mark.timeout(180)

# What llama.cpp makes of a small image: a tile, the whole once more, and the marks around both.
TOKENS_OF_IMAGE: Final = 33
# A paste or a drop as the browser makes it, with a file in it; a test can't reach into the clipboard of a screen.
GIVE: Final = """
(target, [kind, data, type]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  transfer.items.add(new File([bytes], `${kind}.${type.split('/')[1]}`, {type}));
  const told = {bubbles: true, cancelable: true};
  const event = kind === 'paste'
    ? new ClipboardEvent('paste', {...told, clipboardData: transfer})
    : new DragEvent('drop', {...told, dataTransfer: transfer});
  target.dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, vision_gguf_folder: Path) -> Iterator[Service]:
    """A service with a model of images and one of text, which keeps captures."""
    folder = tmp_path_factory.mktemp("web-images")
    (folder / "data").mkdir()
    text = {"model": MODEL, "threads": 1, "ctxSize": 2048, "nPredict": 4}
    models = {"eyes": {"params": {**text, "mmproj": PROJECTOR}}, "blind": {"params": text}}
    (folder / "data" / "models.json").write_text(json.dumps(models))
    environment = {
        "LLAMAHERD_STORAGE__MODELS_FOLDER": str(vision_gguf_folder),
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_ACTIVITY__CAPTURE": "true",
    }
    with running(folder, environment) as service:
        yield service


def image(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "png")
    return file.getvalue()


def give(target: Locator, kind: str, data: bytes, mime: str = "image/png") -> None:
    target.evaluate(GIVE, [kind, base64.b64encode(data).decode(), mime])


def attached(page: Page) -> Locator:
    return page.get_by_role("list", name="Images of the message").get_by_role("listitem")


def test_images_are_chosen_pasted_and_dropped_and_the_model_gets_them(visit: Visit, seeing: Service) -> None:
    visitor = visit(seeing, seeing.key)
    page = visitor.open("chat")
    choose_model(page, "eyes")
    message = page.get_by_role("textbox", name="Message")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Attach images or text files").click()
    chooser.value.set_files({"name": "red.png", "mimeType": "image/png", "buffer": image((200, 30, 30))})
    expect(attached(page)).to_have_count(1)
    give(message, "paste", image((10, 20, 220)))
    expect(attached(page)).to_have_count(2)
    give(page.get_by_role("region", name="Conversation").or_(page.get_by_role("main")).first, "drop", image((0, 99, 0)))
    expect(attached(page)).to_have_count(3)
    attached(page).first.get_by_role("button", name="Remove red.png").click()
    expect(attached(page)).to_have_count(2)
    visitor.picture(page, "chat-images")
    assert not serious_faults(page)

    done(ask(page, "What are these?"))
    expect(attached(page)).to_have_count(0)
    shown = page.get_by_role("article", name="You").get_by_role("button", name=re.compile("^Show "))
    expect(shown).to_have_count(2)
    (last,) = json_of(seeing, "/admin/requests/history?limit=1")["requests"]
    assert last["prompt_tokens"] > 2 * TOKENS_OF_IMAGE
    capture = json_of(seeing, f"/admin/requests/history/{last['n']}")["capture"]
    assert capture["request"]["body"].count("data:image/") == 2

    page.reload()  # they are kept with the conversation
    expect(shown).to_have_count(2)
    shown.first.click()
    expect(page.get_by_role("dialog").get_by_role("img")).to_be_visible()


def test_what_is_no_image_and_what_the_model_does_not_take_is_told(visit: Visit, seeing: Service) -> None:
    page = visit(seeing, seeing.key).open("chat")
    choose_model(page, "eyes")
    message = page.get_by_role("textbox", name="Message")
    give(message, "paste", b"this is no image", "image/png")
    expect(page.get_by_role("alert").or_(page.get_by_role("status")).filter(has_text="paste.png").first).to_be_visible()
    expect(attached(page)).to_have_count(0)
    choose_model(page, "blind")
    give(message, "paste", image((1, 2, 3)))
    expect(attached(page)).to_have_count(0)
    expect(page.get_by_text("text only").first).to_be_visible()
