"""Programs that end while JAX has calls of fastce to make: a callback into a Python that ends would abort them."""

import pytest
from scripts import run_script

pytest.importorskip("jax")

PROGRAM = """
import contextlib, sys, threading
import jax, jax.numpy as jnp, fastce.jax

gradient = jax.jit(jax.grad(fastce.jax.cross_entropy))
logits, targets = jnp.ones((1024, 4096)), jnp.zeros(1024, int)
jax.block_until_ready(gradient(logits, targets))
held = []


def work(device=None):
    x, y = jax.device_put(logits, device), jax.device_put(targets, device)
    for _ in range(20):
        held[:] = [gradient(x * 2, y)]
    if END != "held":
        held.clear()


"""
ENDS = {
    "held": "work()",
    "let go": "work()",
    "in a thread": "END = 'held'; thread = threading.Thread(target=work); thread.start(); thread.join()",
    "on two devices": "[work(device) for device in jax.devices()]",
    "after an error": """
with contextlib.suppress(jax.errors.JaxRuntimeError):
    held.append(gradient(logits, jnp.full(1024, 9999)))
work()
""",
    "by sys.exit": "work(); sys.exit()",
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_program_may_end_before_its_calls(end, tmp_path):
    source = PROGRAM + f"END = {end!r}\n{ENDS[end]}\n"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if "devices" in end else {}
    run_script(source, tmp_path, timeout=240, **flags)
