"""Who is raced. Each contender is imported only in the process that runs it."""

# Shown name -> module and class. The order is that of the table.
Contenders = dict[str, tuple[str, str]]

STEP_CONTENDERS: Contenders = {
    "instep": ("instep_step", "Instep"),
    "torch fused": ("torch_step", "TorchFused"),
    "torch foreach": ("torch_step", "TorchForeach"),
    "torch default": ("torch_step", "TorchDefault"),
    "deepspeed": ("deepspeed_step", "CPUAdam"),
    "numba": ("numba_step", "Numba"),
    "numba fastmath": ("numba_step", "NumbaFastmath"),
    "optax jit": ("optax_step", "OptaxJit"),
    "numexpr": ("numexpr_step", "Numexpr"),
    "numpy in place": ("numpy_step", "NumpyInPlace"),
    "roofline": ("roofline", "StepRoofline"),
}

# The same peers, given gradients as they lie in NumPy.
LAYOUT_CONTENDERS: Contenders = {
    "instep": ("instep_step", "InstepGiven"),
    "torch fused": ("torch_step", "TorchFusedGiven"),
    "torch foreach": ("torch_step", "TorchForeachGiven"),
    "torch default": ("torch_step", "TorchDefaultGiven"),
    "deepspeed": ("deepspeed_step", "CPUAdamGiven"),
    "numba": ("numba_step", "NumbaGiven"),
    "numba fastmath": ("numba_step", "NumbaFastmathGiven"),
    "optax jit": ("optax_step", "OptaxGiven"),
    "numexpr": ("numexpr_step", "NumexprGiven"),
    "numpy in place": ("numpy_step", "NumpyGiven"),
    "roofline": ("roofline", "GivenRoofline"),
}

LOSS_CONTENDERS: Contenders = {
    "instep": ("instep_loss", "Instep"),
    "instep out=": ("instep_loss", "InstepOut"),
    "torch": ("torch_loss", "Torch"),
    "jax jit": ("jax_loss", "JaxJit"),
    "numpy in place": ("numpy_loss", "NumpyInPlace"),
    "numpy in blocks": ("numpy_loss", "NumpyInBlocks"),
    "sklearn": ("sklearn_loss", "Sklearn"),
    "roofline": ("roofline", "LossRoofline"),
}

PIPELINE_CONTENDERS: Contenders = {
    "instep": ("pipeline_instep", "Instep"),
    "torch": ("pipeline_torch", "Torch"),
    "numba": ("pipeline_numba", "Numba"),
    "numba fastmath": ("pipeline_numba", "NumbaFastmath"),
    "bitsandbytes": ("pipeline_bitsandbytes", "AdamW8bit"),
    "roofline": ("pipeline_roofline", "Roofline"),
}

DIGITS_CONTENDERS: Contenders = {
    "instep": ("digits_numpy", "Instep"),
    "torch": ("digits_torch", "Torch"),
    "numpy in place": ("digits_numpy", "PlainNumpy"),
}

OURS = "instep"
# The same, and the peers, that write the gradient into a given buffer: like is compared with like.
OURS_IN_PLACE = "instep out="
IN_PLACE = ("numpy in place", "numpy in blocks", "sklearn")
CEILING = "roofline"
