"""The closed lists that values of the configuration are chosen from."""

ARCHITECTURES = ("auto", "sd15", "sdxl")
COMPONENT_MODES = ("lora", "full", "frozen")
DEVICES = ("auto", "cpu", "cuda", "mps")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SCHEDULES = ("constant", "cosine", "linear")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "unipc")
LOSS_WEIGHTINGS = ("min_snr", "debiased", "none")
PREDICTION_TYPES = ("auto", "epsilon", "v_prediction")
TIMESTEP_SAMPLINGS = ("uniform", "logit_normal")
MASKS = ("none", "files", "alpha")
