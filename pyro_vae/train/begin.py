"""How a run begins: from the pair's weights, or from a checkpoint."""

import json
from collections.abc import Callable
from typing import Any

from ..evaluate import check_pair
from ..programs.backends import choose_backend
from ..programs.interfaces import ModelInterface, interface_of
from . import distributed, state
from .arguments import check_json
from .first_parts import parts_kept_in, remove_parts
from .initialize import Initialization
from .loop import Loop


def start_run(loop: Loop, initialize: Callable[..., Any] | None, config: dict[str, Any]) -> None:
    """Check the pair, make the optimizer, initialize, and write the first checkpoint.

    Args:
        loop: the run.
        initialize: called with `(model, guide, data, device, seed, progress)`.
        config: more for `config.json`.
    """
    first, pair_inputs = loop.inputs.first()
    check_pair(loop.model, loop.guide, **pair_inputs)
    loop.inputs.check_all(pair_inputs)
    loop.make_stepper(first)
    loop.saving.start({**config, "fit": loop.recorded()}, loop.inputs)  # files from here on
    if initialize is not None:
        data = loop.inputs.data
        with parts_kept_in(loop.saving.folder_path):
            result = initialize(loop.model, loop.guide, data, loop.device, loop.seed, loop.progress)
        if isinstance(initialize, Initialization) and isinstance(result, dict):
            check_json(result, "what an initialization returns")
            loop.result.initialization = result
            loop.saving.record(initialization=result)
        loop.compile = loop.settings["compile"]  # chosen above
        loop.make_stepper(first)
    interface_of(loop.model, ModelInterface).check_trainable()
    distributed.separate_noise(loop.seed)
    loop.save()
    remove_parts(loop.saving.folder_path)


def resume_run(loop: Loop, saved: dict[str, Any], files: dict[str, str]) -> None:
    """Continue from what `state.capture` returned; `files` are written to the folder anew."""
    path = loop.saving.path
    settings = json.loads(saved["settings"])
    if loop.compile == "auto":
        loop.compile = settings["compile"]  # the same arithmetic as before, to the last bit
    loop.settings["compile"] = choose_backend(loop.compile, 0)
    loop.settings["optimizer"] = settings.get("optimizer")  # it is compared once it is made
    state.check_settings(settings, json.loads(json.dumps(state.described(loop))), path)
    first, pair_inputs = loop.inputs.first()
    loop.inputs.check_all(pair_inputs)
    state.freeze_as(loop, saved)
    loop.make_stepper(first, broadcast=False)  # the weights come from the checkpoint
    state.check_settings(settings, json.loads(json.dumps(state.described(loop))), path)
    distributed.separate_noise(loop.seed)  # of a process that was not there before
    state.resume(loop, saved, path)
    loop.good = saved["weights"]
    config = json.loads(saved["config"])
    loop.result.initialization = config.get("initialization")
    loop.saving.resume(config, loop.history, files)
