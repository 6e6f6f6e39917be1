"""Who is raced. Each contender is imported only in the process that runs it."""

# Shown name -> module and class. The order is that of the table.
CONTENDERS: dict[str, tuple[str, str]] = {
    "instep": ("instep_contender", "Instep"),
    "torch fused": ("torch_contender", "TorchFused"),
    "torch default": ("torch_contender", "TorchDefault"),
    "numba": ("numba_contender", "Numba"),
    "numba fastmath": ("numba_contender", "NumbaFastmath"),
    "optax jit": ("optax_contender", "OptaxJit"),
    "numpy in place": ("numpy_contender", "NumpyInPlace"),
    "roofline": ("roofline_contender", "Roofline"),
}
OURS = "instep"
CEILING = "roofline"

# What the header reports the versions of.
PACKAGES = ("instep", "numpy", "torch", "numba", "llvmlite", "jax", "jaxlib", "optax")
