"""A llama's Hugging Face folder as the GGUF file that llama.cpp's converter makes of it: the same weights for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

# These differ between the file that describes the model and the one that is written.
OWN: Final = ("GGUF.", "general.file_type", "general.quantization_version")


def write_bf16_gguf(path: Path, folder: Path, described_by: Path) -> Path:
    """The weights of `folder`, in bfloat16, with the metadata and the tokenizer of a GGUF file; returns `path`.

    That file must hold the same model, in any quantisation.
    """
    writer = gguf.GGUFWriter(path, "llama")
    for field in gguf.GGUFReader(described_by).fields.values():
        if not field.name.startswith(OWN) and field.name != gguf.Keys.General.ARCHITECTURE:
            writer.add_key_value(field.name, field.contents(), *field.types[:2])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    _add_tensors(writer, folder)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Matrices in bfloat16, norms in float32, as the converter does it."""
    # Not everybody has them.
    import torch
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    opening: Any = safe_open
    with opening(folder / "model.safetensors", framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  it is no dictionary
            tensor = tensors.get_tensor(name)
            known = names.get_name(name, try_suffixes=(".weight",))
            assert known is not None, name
            if tensor.ndim == 1:
                writer.add_tensor(known, tensor.float().numpy())
                continue
            # numpy has no bfloat16; these are its bytes.
            bits = tensor.bfloat16().view(torch.int16).numpy()
            if rotated := heads.get(name.split(".")[-2]):
                bits = _neighbours(bits, rotated)
            writer.add_tensor(known, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def _neighbours(matrix: npt.NDArray[np.int16], heads: int) -> npt.NDArray[np.int16]:
    """Rows of each head in the order in which llama.cpp turns them: by pairs of neighbours, not of halves."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
    return np.ascontiguousarray(pairs.reshape(rows, columns))
