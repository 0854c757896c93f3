"""Chat: turns, branches, two models at once, and what is kept of them in the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from tests.e2e.service import Service
from tests.routes.stage import Fake
from tests.web.browser import Visitor, eventually, expect, serious_faults
from tests.web.conftest import StartStaged, Visit


@pytest.fixture
def visitor(service: Service, visit: Visit) -> Visitor:
    return visit(service, service.key)


def ask(page: Page, text: str) -> Locator:
    """Send a message; returns its answer, which may be on its way still."""
    answers = page.get_by_role("article", name=re.compile("^Answer of"))
    before = answers.count()
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")
    expect(answers).to_have_count(before + 1)
    return answers.nth(before)


def choose_model(page: Page, name: str) -> None:
    page.get_by_role("button", name=re.compile("^Model")).click()
    page.get_by_role("combobox", name="Find a model").fill(name)
    page.get_by_role("option", name=re.compile(f"^{name}\\b")).first.click()


def chats(page: Page) -> Locator:
    """The list of them, beside the chat."""
    return page.get_by_role("navigation", name="Chats")


def done(answer: Locator) -> None:
    expect(answer).to_have_attribute("aria-busy", "false")


def test_a_turn_is_streamed_with_its_figures_and_the_next_one_is_stopped(visitor: Visitor, service: Service) -> None:
    page = visitor.open("chat")
    choose_model(page, "smol")
    answer = ask(page, "Name three animals of the Andes.")
    expect(answer).to_contain_text("tok/s")
    done(answer)
    expect(answer).to_contain_text(re.compile(r"[\d.]+ tok/s"))
    expect(answer.get_by_text(re.compile(r"\d+ tokens?")).first).to_be_visible()
    assert "of 2,048 tokens" in page.get_by_role("main").inner_text()
    visitor.picture(page, "chat-turn")
    assert not serious_faults(page)

    second = ask(page, "Write a very long story about a llama, with every detail that you can think of.")
    expect(second).to_contain_text(re.compile(r"\d+ tokens?"))
    page.get_by_role("button", name="Stop the answer").click()
    done(second)
    expect(second).to_contain_text("topped")
    slots = service.slots("smol")
    eventually(lambda: slots.busy() == 0, page)
    page.reload()
    expect(page.get_by_role("article", name=re.compile("^Answer of"))).to_have_count(2)


def test_editing_and_regenerating_make_branches_to_go_back_to(visitor: Visitor) -> None:
    page = visitor.open("chat")
    choose_model(page, "smol")
    answer = ask(page, "Say the word red.")
    done(answer)
    first = answer.inner_text()
    answer.get_by_role("button", name="Regenerate", exact=True).click()
    expect(answer.get_by_text("2/2")).to_be_visible()
    done(answer)
    answer.get_by_role("button", name="Previous version").click()
    expect(answer.get_by_text("1/2")).to_be_visible()
    assert first.split("\n")[1] in answer.inner_text()

    page.get_by_role("article", name="You").get_by_role("button", name="Edit").click()
    mine = page.get_by_role("article", name="You")
    mine.get_by_role("textbox", name="Edit your message").fill("Say the word blue.")
    mine.get_by_role("button", name="Send").click()
    expect(mine.get_by_text("2/2")).to_be_visible()
    expect(mine).to_contain_text("blue")
    done(page.get_by_role("article", name=re.compile("^Answer of")))
    mine.get_by_role("button", name="Previous version").click()
    expect(mine).to_contain_text("red")


def test_a_model_that_is_not_loaded_is_loaded_by_the_first_message_and_the_page_tells(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    fake.close_gate(load_progress=(0.4,))
    with start_staged() as staged:
        visitor = visit(staged, staged.inference_key)  # such a key can't see the feed
        page = visitor.open("chat")
        answer = ask(page, "Hello there")
        expect(answer).to_contain_text(re.compile("oading parrot"))
        visitor.picture(page, "chat-loading")
        fake.open_gate()
        done(answer)
        expect(answer).to_contain_text("Hello there")


def test_two_models_answer_the_same_prompt_and_one_goes_on(visitor: Visitor) -> None:
    page = visitor.open("chat")
    choose_model(page, "smol")
    page.get_by_role("button", name="Compare").click()
    second = page.get_by_role("group", name="Second model")
    second.get_by_role("button", name=re.compile("odel")).first.click()
    page.get_by_role("combobox", name="Find a model").fill("smol-two")
    page.get_by_role("option", name=re.compile("^smol-two")).first.click()
    page.get_by_role("textbox", name="Message").fill("What is a llama? One sentence.")
    page.get_by_role("textbox", name="Message").press("Enter")
    pair = page.get_by_role("group", name="Two answers side by side")
    one, two = (pair.get_by_role("article", name=f"Answer of {name}", exact=True) for name in ("smol", "smol-two"))
    done(one)
    done(two)
    visitor.picture(page, "chat-compare")
    assert not serious_faults(page)
    two.get_by_role("button", name="Keep this one").click()
    expect(pair).to_have_count(0)
    expect(page.get_by_role("article", name="Answer of smol-two")).to_be_visible()


def test_the_system_prompt_personality_and_parameters_are_sent(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        page = visit(staged, staged.key).open("chat")
        page.get_by_role("button", name="Parameters").click()
        page.get_by_label("System prompt").fill("Be brief.")
        page.get_by_role("textbox", name="Temperature", exact=True).fill("0.3")
        page.get_by_role("textbox", name="Top K", exact=True).fill("7")
        done(ask(page, "one two"))
        (seen,) = fake.requests()
    body = seen["body"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two"}]
    assert (body["temperature"], body["top_k"], body["stream"]) == (0.3, 7, True)
    assert "top_p" not in body


def test_an_error_is_told_where_it_happened_and_can_be_tried_again(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    fake.knobs(error_stream_after=1, faulty_requests=1)
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("chat")
        answer = ask(page, "one two three")
        done(answer)
        expect(answer.get_by_role("button", name=re.compile("try again|retry", re.IGNORECASE))).to_be_visible()
        visitor.picture(page, "chat-error")
        answer.get_by_role("button", name=re.compile("try again|retry", re.IGNORECASE)).click()
        again = page.get_by_role("article", name=re.compile("^Answer of")).last
        expect(again).to_contain_text("one two three")


def test_chats_are_found_exported_and_imported(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("chat")
    choose_model(page, "smol")
    done(ask(page, "The secret word is quinoa."))
    title = chats(page).get_by_role("link").first.inner_text()
    page.get_by_role("searchbox", name="Search chats").fill("quinoa")
    expect(page.get_by_role("list", name="Chats found").get_by_role("link")).not_to_have_count(0)
    page.get_by_role("searchbox", name="Search chats").fill("nothing like it")
    expect(page.get_by_role("list", name="Chats found").get_by_role("link")).to_have_count(0)
    page.get_by_role("searchbox", name="Search chats").fill("")

    page.get_by_role("button", name="More about chats").click()
    with page.expect_download() as saved:
        page.get_by_text("Export all").click()
    file = tmp_path / "chats.json"
    saved.value.save_as(file)
    assert "quinoa" in file.read_text()
    chats(page).get_by_role("link", name=title).hover()
    chats(page).get_by_role("button", name=f"Delete {title}").click()
    expect(chats(page).get_by_role("link", name=title)).to_have_count(0)
    page.get_by_label("File to import").set_input_files(file)
    expect(chats(page).get_by_role("link", name=title)).to_have_count(1)
    page.get_by_label("File to import").set_input_files(
        {"name": "x.json", "mimeType": "application/json", "buffer": b"{]"}
    )
    expect(page.get_by_role("alert").filter(has_text=re.compile("x.json|JSON")).first).to_be_visible()


def test_a_chat_is_in_step_in_two_tabs(visitor: Visitor) -> None:
    one, two = visitor.open("chat"), visitor.open("chat")
    choose_model(one, "smol")
    done(ask(one, "This is told in the first tab."))
    link = chats(two).get_by_role("link", name=re.compile("^This is told"))
    link.click()
    expect(two.get_by_role("article", name=re.compile("^Answer of"))).to_have_count(1)
    chats(one).get_by_role("link", name=re.compile("^This is told")).hover()
    chats(one).get_by_role("button", name=re.compile("^Rename This is told")).click()
    one.get_by_role("textbox", name="Title").fill("Renamed")
    one.get_by_role("textbox", name="Title").press("Enter")
    expect(chats(two)).to_contain_text("Renamed")


def test_an_image_goes_to_no_model_that_takes_text_only(visitor: Visitor) -> None:
    page = visitor.open("chat")
    choose_model(page, "smol")
    expect(page.get_by_role("button", name="Attach text files")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Attach images"))).to_have_count(0)
