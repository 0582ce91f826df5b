"""Fast experts backends for Mixture-of-Experts models in transformers.

Importing this package registers them:

    import moexperts
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(name, experts_implementation="moexperts")
    model.set_experts_implementation("eager")

`moexperts` and `moexperts_grouped_mm` are one backend, which reads each expert's weights once for
all its tokens; `moexperts_batched_mm` computes every (token, expert) pair on its own;
`moexperts_eager` one expert after another. Weights and activations are used where torch keeps them.
"""

from ._inspect import Inspection, inspect
from ._transformers import BACKENDS, register

__all__ = ["BACKENDS", "Inspection", "inspect", "register"]

register()
