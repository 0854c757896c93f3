"""Grammars for answers, by llguidance: compiled once, followed token by token. No torch, and no HTTP."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from manager.engines.hf.grammar.fields import JSON_OPTIONS, GrammarSpec
from manager.engines.hf.grammar.gbnf import lark_of
from manager.engines.hf.wire.unsupported import FieldError
from manager.errors import GenerationFailed

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from manager.engines.hf.generation import Grammar, Matcher

    Mask = np.ndarray[Any, np.dtype[np.bool_]]

_LARGEST = 256 * 1024  # characters of a grammar
_KEPT = 64
# Lines of a grammar, with their numbers, and the place in them.
_QUOTED = re.compile(r"^ *\d+ \|", re.MULTILINE)
_WHERE = re.compile(r"^(?:at )?\d+\(\d+\): ")
# The least work that real schemas never reach, so that a hostile one costs a step some milliseconds.
_LIMITS = LLParserLimits(
    step_max_items=30_000,
    max_items_in_row=8_000,
    step_lexer_fuel=100_000,
    max_grammar_size=200_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)


class GrammarError(GenerationFailed):
    """A grammar can't be followed further: a token that may not come, or a state that costs too much."""


class Grammars:
    """Compiles grammars for one loaded model and keeps the last ones. Safe to call from several threads.

    `tokenizer`: the fast tokenizer's own (backend_tokenizer). `vocabulary`: rows of the logits. `ends`: the tokens that
    end a text; they may come exactly where the grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: frozenset[int]) -> None:
        self._source = tokenizer
        self._vocabulary = vocabulary
        self._ends = frozenset(end for end in ends if end < vocabulary)
        self._tokenizer: LLTokenizer | None = None
        self._known: Mask = np.zeros(vocabulary, dtype=np.bool_)  # rows that have a token
        self._compiled: OrderedDict[GrammarSpec, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def prepare(self) -> None:
        """Make what all grammars need. Blocks for 0.3 s and holds the interpreter's lock, so it belongs to a load."""
        try:
            self._tokenizer = self._build()
        except Exception as error:  # of a kind that llguidance does not know
            logger.warning("grammars can't be used with this model's tokenizer: %s", type(error).__name__)

    def compile(self, spec: GrammarSpec) -> Grammar:
        """The grammar, ready to follow. Blocks for some ms. FieldError names its field."""
        core = replace(spec, after="", must=True, again=False)
        with self._lock:
            if self._tokenizer is None:
                self.prepare()
            tokenizer = self._tokenizer
            if tokenizer is None:
                raise FieldError(spec.field, "can't be honoured: grammars don't work with this model's tokenizer")
            matcher = self._compiled.get(core)
            if matcher is None:
                matcher = self._compiled[core] = _compiled(core, tokenizer)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(core)
        strict = _StrictGrammar(matcher, self._vocabulary, self._ends)
        return _DelayedGrammar(strict, spec, tokenizer, self._known) if spec.after else strict

    def _build(self) -> LLTokenizer:
        ids = np.fromiter(self._source.get_vocab(with_added_tokens=True).values(), dtype=np.int64)
        self._known[ids[ids < self._vocabulary]] = True
        rows = max(self._vocabulary, int(ids.max()) + 1)
        return LLTokenizer(self._source.to_str(), n_vocab=rows, eos_token=sorted(self._ends) or None)


def _compiled(spec: GrammarSpec, tokenizer: LLTokenizer) -> LLMatcher:
    if len(spec.text) > _LARGEST:
        raise FieldError(spec.field, f"is longer than {_LARGEST} characters")
    try:
        matcher = LLMatcher(tokenizer, _source(spec), log_level=0, limits=_LIMITS)
    except ValueError as error:
        raise FieldError(spec.field, f"can't be used: {' '.join(str(error).split())[:300]}") from None
    if not matcher.is_error():
        matcher.compute_bitmask()  # the dearest one, and shared by all that follow the grammar
    if matcher.is_error():
        raise FieldError(spec.field, f"can't be used: {_reason(matcher)}")
    return matcher


def _source(spec: GrammarSpec) -> str:
    match spec.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(spec.text, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
        case "gbnf":
            return LLMatcher.grammar_from_lark(lark_of(spec.text))
        case "lark":
            return LLMatcher.grammar_from_lark(spec.text)


def _reason(matcher: LLMatcher) -> str:
    """What llguidance says of it, without what it quotes of the grammar that we made of the request's."""
    said = _QUOTED.split(matcher.get_error().replace("<non-verbose/>", ""), maxsplit=1)[0]
    words = _WHERE.sub("", " ".join(said.split()))
    if words.startswith("NoExtension"):
        return "nothing fits it"
    if "Too many" in words or "too many" in words or "too large" in words:
        return "it is too large or too ambiguous"
    # Regular expressions are shown with a mark below the place, and then comes what is wrong.
    return words.rpartition("error: ")[2][:300]


class _StrictGrammar:
    """Holds from the first token to the last."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self.vocabulary = vocabulary
        self.ends = ends
        self.ends_only: Mask = np.zeros(vocabulary, dtype=np.bool_)
        self.ends_only[sorted(ends)] = True
        self.ends_only.setflags(write=False)

    def matcher(self) -> _StrictMatcher:
        return _StrictMatcher(self._matcher.deep_copy(), self)


class _StrictMatcher:
    """Its masks may be shared and are not to be written to."""

    def __init__(self, matcher: LLMatcher, grammar: _StrictGrammar) -> None:
        self._matcher = matcher
        self._grammar = grammar

    def mask(self) -> Mask:
        if self.done:
            return self._grammar.ends_only
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar can't be followed further: {_reason(self._matcher)}")
        return np.unpackbits(packed, count=self._grammar.vocabulary, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if token in self._grammar.ends and self.done:
            return
        if not self._matcher.consume_token(token):
            if "doesn't satisfy" in self._matcher.get_error():
                raise GrammarError(f"token {token} does not follow the grammar")
            raise GrammarError(f"the grammar can't be followed further: {_reason(self._matcher)}")

    @property
    def done(self) -> bool:
        # It says stopped of errors too, which mask() is to tell of.
        return self._matcher.is_stopped() and not self._matcher.is_error()


class _DelayedGrammar:
    """Holds behind a text only: after the reasoning, or wherever a call of a tool begins."""

    def __init__(self, strict: _StrictGrammar, spec: GrammarSpec, tokenizer: LLTokenizer, known: Mask) -> None:
        self.strict = strict
        self.spec = spec
        self.tokenizer = tokenizer
        self.free: Mask = known.copy()
        self.free[sorted(strict.ends)] = not spec.must
        self.free.setflags(write=False)

    def matcher(self) -> Matcher:
        return _DelayedMatcher(self)


class _DelayedMatcher:
    def __init__(self, grammar: _DelayedGrammar) -> None:
        self._grammar = grammar
        self._inner: _StrictMatcher | None = None
        self._tail = b""  # what was written last, as much as can be a part of the text that is waited for

    def mask(self) -> Mask:
        return self._grammar.free if self._inner is None else self._inner.mask()

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
        elif token in self._grammar.strict.ends:
            if self._grammar.spec.must:
                raise GrammarError("the answer may not end yet")
        else:
            self._look(token)
        if self._inner is not None and self._inner.done and self._grammar.spec.again:
            self._inner = None

    def _look(self, token: int) -> None:
        waited = self._grammar.spec.after.encode()
        written = self._tail + self._grammar.tokenizer.decode_bytes([token])
        before, found, rest = written.partition(waited)
        if not found:
            self._tail = before[-len(waited) :]
            return
        self._tail = b""
        inner = self._grammar.strict.matcher()
        try:
            for next_token in self._grammar.tokenizer.tokenize_bytes(rest) if rest.strip() else ():
                inner.accept(next_token)
        except GrammarError:
            # The token that ended the text went on with something else, which nothing forbade.
            if self._grammar.spec.must:
                raise
        else:
            self._inner = inner

    @property
    def done(self) -> bool:
        return self._inner is not None and self._inner.done
