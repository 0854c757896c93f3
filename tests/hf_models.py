"""Small Hugging Face folders with random weights, made in moments; and the starter model as such a folder.

What takes seconds to import is imported in the functions: tests that need no torch are collected without it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from filelock import FileLock

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

# Their ids are 0, 1 and 2, as in SmolLM2's vocabulary. <|im_end|> ends an answer.
SPECIALS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
START_ID: Final = 1
END_ID: Final = 2

CHATML: Final = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

# The same with messages whose content is a list of parts; an image is one <image>, which the processor makes more of.
CHATML_WITH_IMAGES: Final = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}
{%- else -%}{{ '<image>' }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

# An image is scaled to a side of IMAGE; patches of PATCH are joined SCALE by SCALE into one token.
IMAGE: Final = 64
PATCH: Final = 16
SCALE: Final = 2

# Where `smollm2` makes another folder out of the same file, this number is to be raised.
SMOLLM2_VERSION: Final = 1


def tiny_text(folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2, window: int = 4096) -> Path:
    """A llama (379 KB) that chats in ChatML, a token a byte. `hidden` is a multiple of 8, `window` is in tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(template=CHATML)
    config = LlamaConfig(**_llama(len(tokenizer), hidden, layers, window))
    _save(LlamaForCausalLM(config), folder, seed, deviation=0.2)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_vision(folder: Path, *, seed: int = 0, tokenizer: Path | None = None) -> Path:
    """An Idefics3 that makes 4 tokens of a tile of 64 x 64 pixels. `tokenizer`: a folder to take it from, as SmolLM2's.

    Needs Pillow, and no torchvision.
    """
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokens: Any = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else byte_tokenizer(template=None)
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokens.add_special_tokens({"extra_special_tokens": marks})
    tokens.chat_template = CHATML_WITH_IMAGES
    # llama.cpp's converter finds the text model by this name.
    text = {"model_type": "llama", "architectures": ["VLlama3ForCausalLM"], **_llama(len(tokens), 64, 2, 4096)}
    config = Idefics3Config(
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        scale_factor=SCALE,
        text_config=text,
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"image_size": IMAGE, "patch_size": PATCH},
        },
    )
    pictures: Any = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE}, do_image_splitting=True
    )
    per_tile = (IMAGE // PATCH // SCALE) ** 2
    processor = Idefics3Processor(pictures, tokens, image_seq_len=per_tile, chat_template=CHATML_WITH_IMAGES)
    _save(Idefics3ForConditionalGeneration(config), folder, seed, deviation=0.1)
    processor.save_pretrained(folder)
    # transformers 5 writes processor_config.json only, and other programs read this one.
    kinds = {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"}
    _write(folder / "preprocessor_config.json", {**pictures.to_dict(), **kinds})
    return folder


def tiny_encoder(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 32,
    window: int = 512,
    pooling: Literal["cls", "max", "mean"] = "mean",
    normalize: bool = True,
) -> Path:
    """A Bert with what sentence-transformers keeps beside it: pooling, normalisation, and half the window as limit."""
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokens = _byte_level((*names.values(), "[MASK]"))
    tokens.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = _transformers_tokenizer(
        tokens, **names, mask_token="[MASK]", model_max_length=window, model_input_names=inputs
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=window,
        pad_token_id=0,
    )
    _save(BertModel(config), folder, seed, deviation=0.2)
    tokenizer.save_pretrained(folder)
    _sentence_transformers(folder, hidden, window // 2, pooling, normalize)
    return folder


def smollm2(folder: Path, gguf: Path) -> Path:
    """The model of a GGUF file, unpacked into bfloat16 (270 MB for the starter model). Takes 13 s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    # It is still marked as quantised with GGUF, and such a model can't be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # The name of its training, which the file tells instead of a folder's.
    model.config._name_or_path = tokenizer.name_or_path = ""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def kept_smollm2(cache: Path, gguf: Path) -> Path:
    """`smollm2`, made once per file and version of transformers, in a folder of `cache`. One process makes it."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{SMOLLM2_VERSION} {metadata.version('transformers')}".encode())
    folder = cache / digest.hexdigest()[:16] / "smollm2-bf16"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
                    smollm2(Path(making, folder.name), gguf).rename(folder)
    return folder


def byte_tokenizer(*, template: str | None) -> PreTrainedTokenizerFast:
    """A token for each byte and for each of SPECIALS."""
    unknown, start, end = SPECIALS
    names = {"unk_token": unknown, "bos_token": start, "eos_token": end, "pad_token": end}
    return _transformers_tokenizer(_byte_level(SPECIALS), **names, chat_template=template)


def _transformers_tokenizer(tokens: Any, **fields: Any) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast  # its __init__ has no types
    tokenizer: PreTrainedTokenizerFast = make(tokenizer_object=tokens, **fields)
    return tokenizer


def _byte_level(specials: tuple[str, ...]) -> Any:
    """A tokenizer of the library under transformers; the special tokens have the first ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate([*specials, *alphabet])}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(list(specials))
    return tokens


def _llama(vocabulary: int, hidden: int, layers: int, window: int) -> dict[str, Any]:
    """Fields of a LlamaConfig, with more rows for tokens than there are tokens, as many models have."""
    return {
        "vocab_size": (vocabulary + 31) // 32 * 32,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": window,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": END_ID,
        "tie_word_embeddings": True,
    }


def _save(model: Any, folder: Path, seed: int, *, deviation: float) -> None:
    """Save the model with new weights in all matrices. With the default ones all tokens are alike likely."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameters: list[torch.Tensor] = list(model.parameters())
    for parameter in parameters:
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=deviation, generator=generator)
    model.save_pretrained(folder)


def _sentence_transformers(folder: Path, hidden: int, limit: int, pooling: str, normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    modes = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
    chosen = {f"pooling_mode_{mode}": name == pooling for name, mode in modes.items()}
    _write(folder / "modules.json", modules)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **chosen})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
