"""The closed lists that values of the configuration are chosen from."""

ARCHITECTURES = ("auto", "sd15", "sdxl")
COMPONENT_MODES = ("lora", "full", "frozen")
ADAPTER_METHODS = ("lora", "dora", "loha", "lokr")
DEVICES = ("auto", "cpu", "cuda", "mps")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SCHEDULES = ("constant", "cosine", "linear")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
