"""What error messages say of a value that was given."""

from typing import Any

LONGEST = 80  # characters


def shown(value: Any) -> str:
    """Return the value on one line: an array by its type, shape and dtype, anything else as it is, if that is short."""
    shape, dtype, name = getattr(value, "shape", ()), getattr(value, "dtype", None), type(value).__name__
    if dtype is not None and shape:
        return f"{name} of shape {tuple(shape)} and dtype {dtype}"
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits has none
        return name
    return text if len(text) <= LONGEST and text.isprintable() else name


def unreadable(value: Any, name: str, error: Exception) -> Exception:
    """Return the complaint about what NumPy cannot read, and the way out."""
    if getattr(value, "requires_grad", None) is True:
        return TypeError(f"{name} requires grad, but fastce records nothing for autograd: give {name}.detach()")
    if str(getattr(value, "dtype", None)) == "torch.bfloat16":
        return TypeError(
            f"{name} is a bfloat16 tensor of PyTorch, which NumPy cannot read: give "
            f"{name}.view(torch.int16).numpy().view(ml_dtypes.bfloat16) or {name}.float()"
        )
    if isinstance(value, (list, tuple)) and "inhomogeneous" in str(error):
        return ValueError(
            f"{name} must be an array, got an inhomogeneous {type(value).__name__}: its elements differ in shape"
        )
    return TypeError(f"{name} must be an array of numbers, got {shown(value)}")
