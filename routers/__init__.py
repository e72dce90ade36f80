"""The two steps of a composition of experts: prompt -> category -> expert.

Knows no HTTP, no keys and no prices. Serving needs numpy, onnxruntime and tokenizers only;
training needs the ``train`` extra, fine-tuning an encoder the ``finetune`` extra.
"""
