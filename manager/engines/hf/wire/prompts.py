"""From the body of a request to what is generated for it: tokens, sampling, limits, grammar. Blocks, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from PIL.Image import Image

from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.chat.deltas import Deltas, PlainDeltas
from manager.engines.hf.chat.plan import ChatPlan, prepare_chat
from manager.engines.hf.generation import Generation
from manager.engines.hf.grammar.fields import GrammarSpec, grammar_spec
from manager.engines.hf.grammar.grammars import Grammars
from manager.engines.hf.images import prepare, take_images
from manager.engines.hf.residence import Residence
from manager.engines.hf.sampling.penalties import Biases
from manager.engines.hf.wire.request import SEEDS, AnswerLimits, read_flag, read_limits, read_sampling
from manager.engines.hf.wire.unsupported import FieldError
from manager.entry import ModelEntry
from manager.errors import ContextLengthExceeded

Body = Mapping[str, Any]
Tokens = tuple[int, ...]
# Sequences of one request.
MOST_SEQUENCES: Final = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read. `generation` is what all its sequences share; `deltas` makes what reads the text of a choice."""

    prompts: tuple[Tokens, ...]
    generation: Generation
    limits: AnswerLimits
    deltas: Callable[[], Deltas] = PlainDeltas

    @property
    def generations(self) -> Iterator[Generation]:
        """One for each choice, those of one prompt in a row. They differ, and are the same next time for a seed."""
        for prompt in self.prompts:
            for choice in range(self.limits.n):
                sampling = self.generation.sampling
                if sampling.seed is not None and choice:
                    sampling = replace(sampling, seed=(sampling.seed + choice) % SEEDS)
                yield replace(self.generation, prompt=prompt, sampling=sampling)


class Prompts:
    """Reads requests for one loaded model. Safe to call from several threads."""

    def __init__(self, entry: ModelEntry, residence: Residence) -> None:
        self._entry = entry
        self._loaded = loaded = residence.loaded
        self._backend = loaded.tokenizer.backend_tokenizer
        self._grammars = Grammars(self._backend, loaded.vocabulary, loaded.ends)
        self._pieces: Pieces | None = None
        self._most_bytes = 0  # of a text that can fit into the window
        if residence.generator is not None:
            self._pieces = residence.generator.pieces
            longest = max(len(token.encode()) for token in self._backend.get_vocab())
            self._most_bytes = loaded.window * longest
            self._grammars.prepare()

    def read(self, chat: bool, body: Body) -> Asked:
        """Raises InvalidRequest naming the field, or ContextLengthExceeded."""
        limits = read_limits(body, self._entry.hf)
        return self._read_chat(body, limits) if chat else self._read_completion(body, limits)

    def _read_chat(self, body: Body, limits: AnswerLimits) -> Asked:
        plan, images = self._planned(body)
        self._check_size(plan.prompt, "messages")
        tokens, media = self._of_chat(plan, images)
        self._check_length(tokens, "messages")
        generation = self._generation(body, limits, plan.grammar, media, plan.stops, special=plan.special)
        return Asked((tokens,), generation, limits, plan.deltas)

    def _planned(self, body: Body) -> tuple[ChatPlan, Sequence[Image]]:
        messages, images = take_images(self._loaded, body["messages"])
        return prepare_chat(self._loaded, {**body, "messages": messages}), images

    def _of_chat(self, plan: ChatPlan, images: Sequence[Image]) -> tuple[Tokens, Mapping[str, Any] | None]:
        """The tokens of a chat with those of its images, and what the processor made of these."""
        if images:
            return prepare(self._loaded, plan.prompt, images)
        return self.encode(plan.prompt, special=plan.add_special), None

    def _read_completion(self, body: Body, limits: AnswerLimits) -> Asked:
        asked = _several(body.get("prompt"))
        if len(asked) * limits.n > MOST_SEQUENCES:
            field = "n" if limits.n > 1 else "prompt"
            raise FieldError(field, f"asks for {len(asked) * limits.n} answers; {MOST_SEQUENCES} are the most")
        prompts = tuple(self._tokens(prompt) for prompt in asked)
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
        if sampling.logit_bias:
            sampling = replace(sampling, logit_bias=Biases(sampling.logit_bias))
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
        # Of one text alone the tokenizer would hold the interpreter's lock: for seconds where the text is megabytes.
        return tuple(self._backend.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    def _tokens(self, prompt: str | Sequence[str | int]) -> Tokens:
        """Of a text, of ids, or of both in a row."""
        tokens: list[int] = []
        for number, item in enumerate([prompt] if isinstance(prompt, str) else prompt):
            if isinstance(item, str):
                self._check_size(item, "prompt")
                tokens.extend(self.encode(item, special=number == 0))
            else:
                tokens.append(self._known(item, "prompt"))
        self._check_length(tokens, "prompt")
        return tuple(tokens)

    def _known(self, token: object, field: str) -> int:
        if type(token) is not int:
            raise FieldError(field, "has something that is neither a text nor a token id")
        if not 0 <= token < self._loaded.vocabulary:
            raise FieldError(field, f"has the token id {token}; the model's ids end at {self._loaded.vocabulary - 1}")
        return token

    def _check_size(self, text: str, field: str) -> None:
        """Refuse what can't fit before its tokens are looked for, which takes a second per megabyte."""
        if len(text) > self._most_bytes:
            raise ContextLengthExceeded(
                f"The request has {len(text)} characters; the context window of {self._loaded.window} tokens can't "
                "hold as many.",
                param=field,
            )

    def _check_length(self, tokens: Sequence[int], field: str) -> None:
        if not tokens:
            raise FieldError(field, "has no tokens for the model to go on from")
        if len(tokens) >= self._loaded.window:
            raise ContextLengthExceeded(
                f"The request has {len(tokens)} tokens; the context window is {self._loaded.window}.", param=field
            )

    # the paths that only look at texts

    def rendered(self, body: Body) -> dict[str, Any]:
        """The prompt. It may be longer than the window."""
        return {"prompt": self._planned(body)[0].prompt}

    def counted(self, body: Body) -> dict[str, Any]:
        """How many tokens the prompt has, with those of its images. It may be longer than the window."""
        tokens, _ = self._of_chat(*self._planned(body))
        return {"input_tokens": len(tokens), "object": "response.input_tokens"}

    def tokenized(self, body: Body) -> dict[str, Any]:
        if body.get("parse_special") is False:
            raise FieldError("parse_special", "can't be false here: special tokens in a text are always read as such")
        content = body.get("content", "")
        items = [content] if isinstance(content, str) else content
        if not isinstance(items, list):
            raise FieldError("content", "must be a string, or an array of strings and token ids")
        special, with_pieces = read_flag(body, "add_special"), read_flag(body, "with_pieces")
        tokens: list[int] = []
        for number, item in enumerate(items):
            if isinstance(item, str):
                tokens.extend(self.encode(item, special=special and number == 0))
            else:
                tokens.append(self._known(item, "content"))
        if not with_pieces:
            return {"tokens": tokens}
        return {"tokens": [{"id": token, "piece": _piece(self._piece_bytes(token))} for token in tokens]}

    def detokenized(self, body: Body) -> dict[str, Any]:
        given = body.get("tokens", [])
        if not isinstance(given, list):
            raise FieldError("tokens", "must be an array of token ids")
        tokens = [self._known(token, "tokens") for token in given]
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
    if not all(isinstance(item, str | list) for item in prompt):
        raise FieldError("prompt", "must be a string, an array of token ids, or an array of these")
    return prompt


def _piece(raw: bytes) -> str | list[int]:
    """A token as text, or where it is a part of a character as its bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
