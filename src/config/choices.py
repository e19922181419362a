"""The closed lists that values of the configuration are chosen from."""

ARCHITECTURES = ("auto", "sd15", "sdxl")
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
COMPONENT_MODES = ("lora", "full", "frozen")
DEVICES = ("auto", "cpu", "cuda", "mps")
BASE_PRECISIONS = ("auto", "int8", "fp8")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SCHEDULES = ("constant", "cosine", "linear")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
