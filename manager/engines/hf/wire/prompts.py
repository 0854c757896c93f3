"""From the body of a request to what is generated for it: tokens, sampling, limits, grammar. Blocks, for threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.chat.deltas import Deltas, PlainDeltas
from manager.engines.hf.chat.plan import prepare_chat
from manager.engines.hf.generation import Generation
from manager.engines.hf.grammar.fields import GrammarSpec, grammar_spec
from manager.engines.hf.grammar.grammars import Grammars
from manager.engines.hf.images import prepare, take_images
from manager.engines.hf.residence import Residence
from manager.engines.hf.wire.request import AnswerLimits, read_limits, read_sampling
from manager.engines.hf.wire.unsupported import FieldError
from manager.entry import ModelEntry
from manager.errors import ContextLengthExceeded

Body = Mapping[str, Any]
Tokens = tuple[int, ...]
# Prompts of one request for completions.
MOST_PROMPTS: Final = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read. `generation` is what all its sequences share; `deltas` makes what reads the text of a choice."""

    prompts: tuple[Tokens, ...]
    generation: Generation
    limits: AnswerLimits
    deltas: Callable[[], Deltas] = PlainDeltas


class Prompts:
    """Reads requests for one loaded model. Safe to call from several threads."""

    def __init__(self, entry: ModelEntry, residence: Residence) -> None:
        self._entry = entry
        self._loaded = loaded = residence.loaded
        self._backend = loaded.tokenizer.backend_tokenizer
        self._grammars = Grammars(self._backend, loaded.vocabulary, loaded.ends)
        self._pieces: Pieces | None = None if residence.generator is None else residence.generator.pieces

    def read(self, chat: bool, body: Body) -> Asked:
        """Raises InvalidRequest naming the field, or ContextLengthExceeded."""
        limits = read_limits(body, self._entry.hf)
        return self._read_chat(body, limits) if chat else self._read_completion(body, limits)

    def _read_chat(self, body: Body, limits: AnswerLimits) -> Asked:
        messages, images = take_images(self._loaded, body["messages"])
        plan = prepare_chat(self._loaded, {**body, "messages": messages})
        media: Mapping[str, Any] | None = None
        if images:
            tokens, media = prepare(self._loaded, plan.prompt, images)
        else:
            tokens = self.encode(plan.prompt, special=plan.add_special)
        self._check_length(tokens, "messages")
        generation = self._generation(body, limits, plan.grammar, media, plan.stops, special=plan.special)
        return Asked((tokens,), generation, limits, plan.deltas)

    def _read_completion(self, body: Body, limits: AnswerLimits) -> Asked:
        prompts = tuple(self._tokens(prompt) for prompt in _several(body.get("prompt")))
        if len(prompts) > MOST_PROMPTS:
            raise FieldError("prompt", f"has more than {MOST_PROMPTS} texts")
        for tokens in prompts:
            self._check_length(tokens, "prompt")
        return Asked(prompts, self._generation(body, limits, grammar_spec(body), None, ()), limits)

    def _generation(
        self,
        body: Body,
        limits: AnswerLimits,
        grammar: GrammarSpec | None,
        media: Mapping[str, Any] | None,
        stops: tuple[str, ...],
        *,
        special: bool = False,
    ) -> Generation:
        sampling = read_sampling(
            body,
            self._loaded.defaults,
            self._entry.hf,
            vocabulary=self._loaded.vocabulary,
            encode=lambda text: self.encode(text, special=False),
        )
        return Generation(
            prompt=(),
            sampling=sampling,
            max_tokens=limits.max_tokens,
            stop=(*limits.stop, *stops),
            ignore_eos=limits.ignore_eos,
            special=special,
            reuse=limits.reuse,
            grammar=None if grammar is None else self._grammars.compile(grammar),
            media=media,
        )

    def encode(self, text: str, *, special: bool) -> Tokens:
        """The tokens of a text, with those that begin a text where `special` says so."""
        return tuple(self._backend.encode(text, add_special_tokens=special).ids)

    def _tokens(self, prompt: str | Sequence[str | int]) -> Tokens:
        """Of a text, of ids, or of both in a row."""
        if isinstance(prompt, str):
            return self.encode(prompt, special=True)
        tokens: list[int] = []
        for number, item in enumerate(prompt):
            if isinstance(item, str):
                tokens.extend(self.encode(item, special=number == 0))
            else:
                tokens.append(self._known(item, "prompt"))
        return tuple(tokens)

    def _known(self, token: int, field: str) -> int:
        if not 0 <= token < self._loaded.vocabulary:
            raise FieldError(field, f"has the token id {token}; the model's ids end at {self._loaded.vocabulary - 1}")
        return token

    def _check_length(self, tokens: Tokens, field: str) -> None:
        if not tokens:
            raise FieldError(field, "has no tokens for the model to go on from")
        if len(tokens) >= self._loaded.window:
            raise ContextLengthExceeded(
                f"The request has {len(tokens)} tokens; the context window is {self._loaded.window}.", param=field
            )

    # the paths that only look at texts

    def rendered(self, body: Body) -> dict[str, Any]:
        messages, _ = take_images(self._loaded, body["messages"])
        return {"prompt": prepare_chat(self._loaded, {**body, "messages": messages}).prompt}

    def tokenized(self, body: Body) -> dict[str, Any]:
        if body.get("parse_special") is False:
            raise FieldError("parse_special", "can't be false here: special tokens in a text are always read as such")
        content = body.get("content", "")
        items = [content] if isinstance(content, str) else content
        special = bool(body.get("add_special"))
        tokens: list[int] = []
        for number, item in enumerate(items):
            tokens.extend((item,) if isinstance(item, int) else self.encode(item, special=special and number == 0))
        if not body.get("with_pieces"):
            return {"tokens": tokens}
        return {"tokens": [{"id": token, "piece": _piece(self._piece_bytes(token))} for token in tokens]}

    def detokenized(self, body: Body) -> dict[str, Any]:
        tokens = [self._known(token, "tokens") for token in body.get("tokens", ())]
        return {"content": b"".join(map(self._piece_bytes, tokens)).decode(errors="replace")}

    def _piece_bytes(self, token: int) -> bytes:
        if self._pieces is None:  # a model of embeddings
            self._pieces = Pieces(self._backend)
        return self._pieces[token]


def _several(prompt: Any) -> list[str | list[str | int]]:
    """The texts of `prompt`: one text or row of ids, or an array of these."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt or any(isinstance(item, dict) for item in prompt):
        raise FieldError("prompt", "must be a string, an array of token ids, or an array of these")
    if any(isinstance(item, int) for item in prompt):
        return [prompt]
    return prompt


def _piece(raw: bytes) -> str | list[int]:
    """A token as text, or where it is a part of a character as its bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
