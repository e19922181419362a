"""The closed lists that values of the configuration are chosen from."""

ARCHITECTURES = ("auto", "sd15", "sdxl")
COMPONENT_MODES = ("lora", "full", "frozen")
# accelerate's names. NO is one process; MULTI_GPU also starts several processes on the CPU.
DISTRIBUTED_TYPES = ("NO", "MULTI_GPU", "FSDP")
DEVICES = ("auto", "cpu", "cuda", "mps")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
FULL_DISK = ("stop", "wait")
RESUME_CHANGED = ("refuse", "allow")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SCHEDULES = ("constant", "cosine", "linear")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
# Whose state lies in the shards of the parameters: numbers of each parameter's shape, changed one by one.
SHARDED_OPTIMIZERS = ("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD")
