"""What somebody may type as a source, and what that means."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.model_store import BadSource
from manager.model_store.source import HubSource, LocalSource, Source, UrlSource, parse_source
from manager.settings_sections import HubSettings

HUB = HubSettings(endpoint="https://hub.test/hf", mirrors=["https://mirror.test"])
REPO = "org/repo-GGUF"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("org/repo-GGUF", HubSource(REPO)),
        (" org/repo-GGUF:Q4_K_M ", HubSource(REPO, quant="Q4_K_M")),
        ("org/repo-GGUF@v1.0", HubSource(REPO, revision="v1.0")),
        ("org/repo-GGUF@v1.0:Q8_0", HubSource(REPO, quant="Q8_0", revision="v1.0")),
        ("org/repo-GGUF:Q8_0@v1.0", HubSource(REPO, quant="Q8_0", revision="v1.0")),
        ("hf.co/org/repo-GGUF:Q8_0", HubSource(REPO, quant="Q8_0")),
        ("https://huggingface.co/org/repo-GGUF", HubSource(REPO)),
        ("https://huggingface.co/org/repo-GGUF/tree/main", HubSource(REPO, revision="main")),
        ("https://huggingface.co/org/repo-GGUF/blob/main/a/b.gguf", HubSource(REPO, "a/b.gguf", revision="main")),
        ("https://hf.co/org/repo-GGUF/resolve/v2/b.gguf?download=true", HubSource(REPO, "b.gguf", revision="v2")),
        ("https://hub.test/hf/org/repo-GGUF/resolve/main/b.gguf", HubSource(REPO, "b.gguf", revision="main")),
        ("https://mirror.test/org/repo-GGUF", HubSource(REPO)),
        ("https://hf.co/org/repo-GGUF/blob/refs%2Fpr%2F3/b.gguf", HubSource(REPO, "b.gguf", revision="refs/pr/3")),
        ("org/repo-GGUF/a/b.gguf", HubSource(REPO, "a/b.gguf")),
        ("org/repo-GGUF/b.gguf@v1", HubSource(REPO, "b.gguf", revision="v1")),
        ("https://files.test/m/b.gguf?token=1#part", UrlSource("https://files.test/m/b.gguf?token=1")),
        ("http://files.test/b.GGUF", UrlSource("http://files.test/b.GGUF")),
        ("./b.gguf", LocalSource(Path("b.gguf"))),
        ("/models/b.gguf", LocalSource(Path("/models/b.gguf"))),
    ],
)
def test_a_source_means(text: str, meant: Source) -> None:
    assert parse_source(text, HUB) == meant


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "gpt2", "org/", "org/..", "../\0", "org/re po", "a/b\nc", "org/repo@../x",
        "https://huggingface.co/datasets/org/data", "https://huggingface.co", "https://files.test/page.html",
        "https://", "https://[::1/b.gguf", "ftp://files.test/b.gguf", "file:///etc/passwd", "s3://bucket/b.gguf",
        "-org/repo", "org/.hidden", "org/repo@" + "x" * 300,
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadSource):
        parse_source(text, HUB)


def test_a_home_folder_is_meant_by_a_tilde() -> None:
    assert parse_source("~/b.gguf", HUB) == LocalSource(Path.home() / "b.gguf")


@pytest.mark.parametrize(
    "text",
    [
        "https://bob:hunter2@files.test/m.bin?sig=S3cr#S3cr", "https://bob:hunter2@[::1/b.gguf?sig=S3cr",
        "ftp://bob:hunter2@files.test/b.gguf?S3cr", "https://bob:hunter2@hub.test/hf/gpt2?S3cr",
        "https://bob:hunter2@files.test/a\n.gguf?S3cr",
    ],
)  # fmt: skip
def test_a_refused_address_is_shown_without_its_secrets(text: str) -> None:
    with pytest.raises(BadSource) as caught:
        parse_source(text, HUB)
    assert "hunter2" not in caught.value.message
    assert "S3cr" not in caught.value.message
