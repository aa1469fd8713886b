"""The fields of a text encoder's configuration: transformers' CLIPTextConfig and what it inherits."""

from __future__ import annotations

from engines.model.fields import FEW, POSITIVE, WHOLE, Ignored, MustBe, Rules, Used

_TRAINING = Ignored("for training")
_SPECIAL = Used("it must be the tokenizer's, or what transformers wrote for years: begin 0, end 2, padding 1")
_CLASSES = Ignored("of classifiers")
_GENERATION = Ignored("of models that write text")
_OUTPUTS = Ignored("which outputs are returned beside the last hidden state")

TEXT_ENCODER_RULES: Rules = {
    "model_type": MustBe(("clip_text_model",), "another text encoder"),
    "architectures": MustBe((None, ("CLIPTextModel",)), "another text encoder, or one with a projection, as in SDXL"),
    "hidden_act": MustBe(("quick_gelu",), "the text encoders of SD2 and SDXL's second one have another activation"),
    "hidden_size": Used("the prompt's width, which must be the U-Net's", WHOLE),
    "intermediate_size": Used("the width inside a layer", WHOLE),
    "num_hidden_layers": Used("the number of layers", FEW),
    "num_attention_heads": Used("the number of attention heads", WHOLE),
    "max_position_embeddings": Used("the number of tokens of a prompt", WHOLE),
    "vocab_size": Used("the number of tokens, which must be the tokenizer's", WHOLE),
    "layer_norm_eps": Used("what LayerNorm adds to the variance", POSITIVE),
    "is_decoder": MustBe((False,), "another network"),
    "is_encoder_decoder": MustBe((False,), "another network"),
    "add_cross_attention": MustBe((False,), "another network"),
    "cross_attention_hidden_size": MustBe((None,), "another network"),
    "pruned_heads": MustBe(({}, None), "attention heads are left out"),
    "quantization_config": MustBe((None,), "quantized weights"),
    "bos_token_id": _SPECIAL,
    "eos_token_id": _SPECIAL,
    "pad_token_id": _SPECIAL,
    "projection_dim": Ignored("of a projection that is not used"),
    **dict.fromkeys(("attention_dropout", "dropout", "initializer_factor", "initializer_range"), _TRAINING),
    **dict.fromkeys(("gradient_checkpointing", "tf_legacy_loss"), _TRAINING),
    **dict.fromkeys(("dtype", "torch_dtype", "use_bfloat16"), Ignored("a precision; --precision decides here")),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "output_scores"), _OUTPUTS),
    **dict.fromkeys(("transformers_version", "name_or_path"), Ignored("where the file comes from")),
    **dict.fromkeys(("chunk_size_feed_forward", "torchscript"), Ignored("how it is computed, not what")),
    **dict.fromkeys(
        ("tie_encoder_decoder", "tie_word_embeddings"), Ignored("weights that a text encoder does not have")
    ),
    **dict.fromkeys(("tokenizer_class", "prefix"), Ignored("the tokenizer's own files decide")),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "problem_type"), _CLASSES),
    **dict.fromkeys(("finetuning_task", "task_specific_params"), _CLASSES),
    **dict.fromkeys(
        (
            "bad_words_ids",
            "begin_suppress_tokens",
            "decoder_start_token_id",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "sep_token_id",
            "suppress_tokens",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
        ),
        _GENERATION,
    ),
}

# A folder may hold a whole CLIP, of which only the text encoder is read.
WHOLE_CLIP_RULES: Rules = {
    "model_type": MustBe(("clip",), "another text encoder"),
    "text_config": Used("the text encoder's own fields, as above"),
    "text_config_dict": MustBe((None,), "further fields of the text encoder"),
    "vision_config": Ignored("pictures are not encoded"),
    "vision_config_dict": Ignored("pictures are not encoded"),
    "logit_scale_init_value": _TRAINING,
    "architectures": MustBe((None, ("CLIPModel",)), "another text encoder"),
    **{
        name: TEXT_ENCODER_RULES[name]
        for name in (
            "dtype",
            "initializer_factor",
            "output_attentions",
            "output_hidden_states",
            "projection_dim",
            "return_dict",
            "torch_dtype",
            "transformers_version",
        )
    },
}
