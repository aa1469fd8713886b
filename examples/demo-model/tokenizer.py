"""The model's own BPE tokenizer: CLIP's rules and 77 tokens, a vocabulary learned from the captions of the scenes."""

import json
import tempfile
from pathlib import Path

import numpy as np
from captions import NEGATIVE, SUFFIX, WORDS, caption_words
from scenes import abstract_scene, object_scene
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def _corpus(captions: int) -> list[str]:
    rng = np.random.default_rng(11)
    drawn = [(object_scene, abstract_scene)[i % 2](rng, (64, 64)).caption for i in range(captions)]
    return drawn + [SUFFIX, NEGATIVE, *WORDS, *caption_words()] * max(1, captions // 100)


def build(folder: Path, *, merges: int = 1000, captions: int = 3000) -> CLIPTokenizer:
    """Learns the vocabulary and writes it to a folder as CLIPTokenizer does (vocab, merges, tokenizer.json)."""
    learner = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=len(alphabet) * 2 + merges, initial_alphabet=alphabet, special_tokens=[START, END],
                         end_of_word_suffix="</w>", show_progress=False)  # fmt: skip
    learner.train_from_iterator(_corpus(captions), trainer)
    pairs = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *dict.fromkeys(a + b for a, b in pairs), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    # transformers annotates merges as text, but takes pairs.
    built = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=LENGTH, pad_token=END)  # type: ignore[arg-type]
    built.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))  # for releases of transformers that read the pair
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    return built


def fast(folder: Path) -> Tokenizer:
    """The same tokenizer without transformers, padded and cut to 77 tokens: what the data workers use."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=end, pad_token=END)
    return tokenizer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        whole = build(Path(scratch))
        for text in ("a red star on a blue background, watercolour", SUFFIX, NEGATIVE, "Über-çüş 7 astronauts?!"):
            ids = whole(text, padding="max_length", truncation=True)["input_ids"]
            assert ids == fast(Path(scratch)).encode(text).ids, text
            print(len(whole), sum(i != ids[-1] for i in ids), text)
