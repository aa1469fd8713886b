"""Images in and out: decoding, Canny edges, PNG, and the tokens of prompts."""
