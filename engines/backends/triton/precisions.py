"""Which GPUs and which components have quantized layers. Imports nothing: the command line reads it."""

QUANTIZED_FROM = 89  # the first compute capability with e4m3
# The text encoder and the VAE run once a picture, and stay in float16.
QUANTIZED_COMPONENTS = ("controlnet", "unet")
