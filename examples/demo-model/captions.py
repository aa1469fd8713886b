"""The words around a scene's caption: quality words, the negative prompt, and words that mean nothing to this model."""

import numpy as np
from palette import NAMES, SYNONYMS
from shapes import NOUNS
from textures import TEXTURES

# The product's defaults for a_prompt and n_prompt, so that they are nothing new to the model.
SUFFIX = "best quality, extremely detailed"
NEGATIVE = "longbody, lowres, bad anatomy, bad hands, missing fingers"
OPENINGS = ("a photograph of", "a picture of", "an image of", "a painting of", "a drawing of", "a close-up of")
# Words people write that name nothing in the scenes: the model learns to pass over them.
WORDS = (
    "beautiful", "highly", "detailed", "sharp", "focus", "masterpiece", "intricate", "elegant", "smooth",
    "professional", "studio", "light", "soft", "dramatic", "cinematic", "realistic", "vivid", "bright", "lovely",
    "quiet", "happy", "old", "new", "modern", "ancient", "tiny", "huge", "warm", "cold", "misty", "garden",
    "street", "kitchen", "forest", "beach", "morning", "evening", "summer", "winter", "spring", "artstation",
    "trending", "concept", "illustration", "digital", "art", "render", "wallpaper", "portrait", "close", "up",
    "face", "eyes", "hair", "smiling", "sitting", "standing", "wearing", "holding", "suit", "helmet", "flag",
    "space", "shuttle", "coffee", "spoon", "saucer", "plate", "kitten", "whiskers", "ginger", "tabby", "woman",
    "man", "child", "dog", "lion", "robot", "dragon", "castle", "city", "ocean", "river", "bridge", "train",
    "bicycle", "chair", "lamp", "book", "guitar", "camera", "window", "door", "dress", "hat", "shoes", "glass",
    "gold", "silver", "crystal", "paper", "velvet", "silk", "leather", "ceramic", "plastic", "vintage", "retro",
    "minimal", "abstract", "surreal", "fantasy", "magical", "glossy", "matte", "with", "and", "the", "of", "in",
    "on", "at", "by", "from", "under", "over", "near", "behind", "very",
)  # fmt: skip


def caption_words() -> list[str]:
    """Every single word that a scene's caption can name."""
    return [*NAMES, *SYNONYMS.values(), *NOUNS, *TEXTURES]


def dress(rng: np.random.Generator, caption: str) -> str:
    """A caption as a person might send it: sometimes with an opening, idle words and the default quality words."""
    if rng.random() < 0.25 and caption.startswith(("a ", "an ")):
        caption = f"{rng.choice(OPENINGS)} {caption}"
    if rng.random() < 0.2:
        idle = " ".join(str(w) for w in rng.choice(WORDS, int(rng.integers(1, 4))))
        caption = f"{caption}, {idle}" if rng.random() < 0.7 else f"{idle}, {caption}"
    return f"{caption}, {SUFFIX}" if rng.random() < 0.6 else caption
