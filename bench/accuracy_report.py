"""The record of accuracy.py as a sentence of the README."""

MARKERS = ("<!-- accuracy:start -->\n", "<!-- accuracy:end -->")
KINDS = {
    "logsumexp": ("logsumexp", "ulp"),
    "losses": ("cross_entropy", "ulp"),
    "gradients of their sum": ("gradient", "eps"),
}
DTYPES = ("float32", "float64", "float16", "bfloat16")


def sentence(record):
    """The largest errors of each kind of result and each dtype, of all targets of the compiler."""
    found = record["found"]
    dtypes = [dtype for dtype in DTYPES if any(entry["dtype"] == dtype for entry in found)]
    parts = []
    for name, (kind, unit) in KINDS.items():
        of_kind = [entry for entry in found if entry["what"].startswith(kind)]
        worst = [max(entry["worst"] for entry in of_kind if entry["dtype"] == dtype) for dtype in dtypes]
        parts.append(f"{name} {', '.join(f'{error:.2f}' for error in worst)} {unit}")
    rows = max(entry["rows"] for entry in found)
    return (
        f"- The largest errors that a search finds, in {', '.join(dtypes)}, among up to {rows:,} rows: "
        f"{'; '.join(parts)}. An ulp is a unit in the last place, eps that of 1."
    )
