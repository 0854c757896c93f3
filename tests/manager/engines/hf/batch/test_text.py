"""Tokens become text as they come: no character is split, and nothing of a stop string is seen."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from manager.engines.hf.batch.text import Pieces, TextStream
from manager.engines.hf.generation import Score

# The letters that byte-level vocabularies write, by the byte.
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOOL, END = 256, 257


def byte_level() -> Tokenizer:
    """A token for each byte, <tool> that is text, and <|end|> that is special."""
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(ALPHABET)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<tool> é", special=False, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def sentence_piece(*, strip: bool = True) -> Tokenizer:
    words = ["<unk>", "▁The", "▁cat", "s", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return tokenizer


BYTES = byte_level()
PIECES = Pieces(BYTES)
TOKEN_OF = {PIECES[token]: token for token in range(256)}


def tokens(text: str | bytes) -> list[int]:
    raw = text.encode() if isinstance(text, str) else text
    return [TOKEN_OF[bytes([byte])] for byte in raw]


def told(stream: TextStream, ids: list[int]) -> list[str]:
    """What each token brought, and what the end did."""
    return [*(stream.feed(token) for token in ids), stream.end()]


def test_every_byte_has_its_token() -> None:
    assert set(TOKEN_OF) == {bytes([byte]) for byte in range(256)}


def test_a_character_comes_with_its_last_byte() -> None:
    assert told(TextStream(PIECES), tokens("a😀é")) == ["a", "", "", "", "😀", "", "é", ""]


def test_a_broken_end_is_one_replacement_character() -> None:
    assert told(TextStream(PIECES), tokens("a😀".encode()[:-1])) == ["a", "", "", "", "\ufffd"]


@pytest.mark.parametrize("seed", range(20))
def test_text_is_what_the_tokenizer_makes_of_all_tokens_for_any_bytes(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(50):
        ids = [choose.randrange(258) for _ in range(choose.randrange(40))]
        if choose.random() < 0.5:  # valid characters, cut anywhere
            letters = "".join(choose.choice("aé€😀\u200d👩🏽") for _ in range(20)).encode()
            ids += tokens(letters[choose.randrange(4) : -choose.randrange(1, 4)])
        for special in (False, True):
            expected = BYTES.decode(ids, skip_special_tokens=not special)
            assert "".join(told(TextStream(PIECES, special=special), ids)) == expected


def test_special_tokens_are_text_only_where_asked_for() -> None:
    ids = [*tokens("a"), END, TOOL]
    assert "".join(told(TextStream(PIECES), ids)) == "a<tool> é"
    assert "".join(told(TextStream(PIECES, special=True), ids)) == "a<|end|><tool> é"


def test_an_id_that_the_tokenizer_does_not_know_is_no_text() -> None:
    assert told(TextStream(PIECES), [*tokens("a"), 100_000, *tokens("b")]) == ["a", "", "b", ""]


def test_spaces_of_sentence_pieces_stay_the_first_one_too() -> None:
    tokenizer = sentence_piece()
    ids = [1, 2, 3, 4]
    assert told(TextStream(Pieces(tokenizer)), ids) == [" The", " cat", "s", " ", ""]
    assert tokenizer.decode(ids) == "The cats "  # which knows nothing of the prompt before


@pytest.mark.parametrize("seed", range(10))
def test_sentence_pieces_give_the_tokenizers_text_where_it_is_valid(seed: int) -> None:
    tokenizer = sentence_piece(strip=False)
    choose = random.Random(seed)
    ids: list[int] = []
    for _ in range(30):
        if choose.random() < 0.5:
            ids += [5 + byte for byte in choose.choice("é€😀").encode()]
        else:
            ids.append(choose.choice([1, 2, 3, 4]))
    pieces = told(TextStream(Pieces(tokenizer)), ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "\ufffd" not in "".join(pieces)


def test_metaspace_becomes_spaces() -> None:
    tokenizer = Tokenizer(models.BPE({"▁The": 0, "▁cat": 1}, []))
    tokenizer.decoder = decoders.Metaspace()
    assert told(TextStream(Pieces(tokenizer)), [0, 1]) == [" The", " cat", ""]


def test_a_decoder_that_looks_at_neighbours_is_followed() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    pieces = Pieces(tokenizer)
    assert not pieces.exact
    assert told(TextStream(pieces), [1, 2, 3]) == ["the", " cat", "s", ""]
    assert pieces[2] == b"cat"


@pytest.mark.parametrize(
    ("stop", "text", "out"),
    [
        (("END",), "abENDcd", "ab"),
        (("END",), "abENcd", "abENcd"),
        (("END",), "abEN", "abEN"),
        (("END",), "ENEND", "EN"),
        (("aab",), "aaab", "a"),
        (("\n\n", "User:"), "hi\nUser: x", "hi\n"),
        (("User:", "\n\n"), "hi\n\nUser:", "hi"),
        (("😀",), "a😁b😀c", "a😁b"),
        (("END",), "ENDing", ""),
        (("E",), "abE", "ab"),
    ],
)
def test_text_ends_before_a_stop_string_split_over_tokens(stop: tuple[str, ...], text: str, out: str) -> None:
    stream = TextStream(PIECES, stop)
    pieces = told(stream, tokens(text))
    assert "".join(pieces) == out
    assert stream.stopped == (out != text)


def test_of_stop_strings_that_come_with_one_token_the_first_in_the_text_counts() -> None:
    tokenizer = Tokenizer(models.BPE({"xENDySTOPz": 0}, []))
    tokenizer.decoder = decoders.ByteLevel()
    for stop in (("STOP", "END"), ("END", "STOP"), ("NDySTOP", "END", "STOP")):
        assert told(TextStream(Pieces(tokenizer), stop), [0]) == ["x", ""]


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    pieces = told(TextStream(PIECES, ("<|im",)), tokens("a <b <|x"))
    assert pieces == ["a", " ", "", "<b", " ", "", "", "<|x", ""]


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_of_the_text_changes_what_comes_before_a_stop_string(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(100):
        text = "".join(choose.choice("aab\n") for _ in range(12))
        stop = "".join(choose.choice("ab\n") for _ in range(choose.randrange(1, 4)))
        stream = TextStream(PIECES, (stop,))
        pieces = told(stream, tokens(text))
        assert "".join(pieces) == text.partition(stop)[0]
        assert stream.stopped == (stop in text)


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(PIECES, ("b",))
    assert told(stream, tokens("abc")) == ["a", "", "", ""]


def scored(stream: TextStream, text: str) -> list[tuple[str, str]]:
    """What each byte of `text` brought: the text, and the bytes whose scores came with it."""
    result = []
    for token in tokens(text):
        out = stream.feed(token, Score(token, -1.0))
        result.append((out, b"".join(PIECES[score.token] for score in stream.take_scores()).decode()))
    return result


def test_scores_come_with_their_text() -> None:
    assert scored(TextStream(PIECES, ("END",)), "aENx") == [("a", "a"), ("", ""), ("", ""), ("ENx", "ENx")]
    assert scored(TextStream(PIECES, ("END",)), "EEx") == [("", ""), ("E", "E"), ("Ex", "Ex")]
    assert scored(TextStream(PIECES), "aé") == [("a", "a"), ("", ""), ("é", "é")]


def test_scores_of_a_stop_string_never_come() -> None:
    stream = TextStream(PIECES, ("END",))
    assert scored(stream, "aENEND")[-1] == ("", "")
    assert stream.end() == ""
    assert stream.take_scores() == ()


def test_scores_of_what_was_held_back_come_at_the_end() -> None:
    stream = TextStream(PIECES, ("END",))
    scored(stream, "aEN")
    assert stream.end() == "EN"
    assert [PIECES[score.token] for score in stream.take_scores()] == [b"E", b"N"]
