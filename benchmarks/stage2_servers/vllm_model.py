# mypy: ignore-errors
# ruff: noqa: ANN201
"""Makes a vision-language model of random weights that vLLM serves; runs in its environment.

    python vllm_model.py DIRECTORY

It is a LLaVA of a few thousand weights, whose tokens are bytes, yes and no. What it answers means nothing.
"""

import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIZE_PX, PATCH_PX, LAYERS = 56, 14, 2
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def tokens():
    words = ["<s>", "</s>", "<unk>", "<pad>", "<image>", "yes", "no", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=model, additional_special_tokens=["<image>"], **special)


def main():
    (directory,) = sys.argv[1:]
    tokenizer = tokens()
    tokenizer.chat_template = TEMPLATE
    crop = {"height": SIZE_PX, "width": SIZE_PX}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIZE_PX}, crop_size=crop),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    eyes = CLIPVisionConfig(**SMALL, num_hidden_layers=LAYERS + 1, image_size=SIZE_PX, patch_size=PATCH_PX)
    words = LlamaConfig(
        **SMALL,
        num_hidden_layers=LAYERS,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=3,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaConfig(vision_config=eyes, text_config=words, image_token_index=image, vision_feature_layer=-2)
    model.architectures, model.dtype = ["LlavaForConditionalGeneration"], "float32"
    model.save_pretrained(directory)


if __name__ == "__main__":
    main()
