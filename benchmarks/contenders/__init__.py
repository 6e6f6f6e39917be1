"""Who is raced. Each contender is imported only in the process that runs it."""

# Shown name -> module and class. The order is that of the table.
Contenders = dict[str, tuple[str, str]]

STEP_CONTENDERS: Contenders = {
    "instep": ("instep_step", "Instep"),
    "torch fused": ("torch_step", "TorchFused"),
    "torch default": ("torch_step", "TorchDefault"),
    "numba": ("numba_step", "Numba"),
    "numba fastmath": ("numba_step", "NumbaFastmath"),
    "optax jit": ("optax_step", "OptaxJit"),
    "numpy in place": ("numpy_step", "NumpyInPlace"),
    "roofline": ("roofline", "StepRoofline"),
}
OURS = "instep"
CEILING = "roofline"
