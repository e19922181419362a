"""The closed lists that values of the configuration are chosen from."""

ARCHITECTURES = ("auto", "sd15", "sdxl")
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
COMPONENT_MODES = ("lora", "full", "frozen")
# accelerate's names. NO is one process; MULTI_GPU also starts several processes on the CPU.
DISTRIBUTED_TYPES = ("NO", "MULTI_GPU", "FSDP")
DEVICES = ("auto", "cpu", "cuda", "mps")
BASE_PRECISIONS = ("auto", "int8", "fp8")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
FULL_DISK = ("stop", "wait")
RESUME_CHANGED = ("refuse", "allow")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SCHEDULES = ("constant", "cosine", "linear")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
LOSS_WEIGHTINGS = ("min_snr", "debiased", "none")
PREDICTION_TYPES = ("auto", "epsilon", "v_prediction")
TIMESTEP_SAMPLINGS = ("uniform", "logit_normal")
MASKS = ("none", "files", "alpha")
