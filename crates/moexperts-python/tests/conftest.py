"""What holds before transformers is loaded: no network, and the same numbers each time."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

torch.use_deterministic_algorithms(True)
# Threads only cost tiny models time, above all where other programs run too.
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
