"""Where the guests of a model are: encoders, codecs and classifiers that its configuration names but its weights do not hold."""

import os

from huggingface_hub import snapshot_download


def resolve_source(source: str, revision: str, config, argument: str) -> dict:
    """
    Where a model that a configuration names is to be loaded from.

    A source that starts with `./` or `../` is relative to the folder or repository that the configuration came from, so that
    a repository can carry its guests in sub-folders (`./codec`). Of a repository of the Hub, only below it.

    Args:
        source (`str`): Hub id or folder.
        revision (`str`):
            Branch, tag or commit of it; of a source inside of the configuration's own repository, that repository's. (A model
            does not know the revision that it was itself loaded at.)
        config (`PreTrainedConfig`): The configuration that names it; its `name_or_path` says where it came from.
        argument (`str`): What the source is called in errors.

    Returns:
        `dict`: `pretrained_model_name_or_path`, `revision` and `trust_remote_code`, for `from_pretrained`. Code of the guest is
        trusted only where it lies in the configuration's own repository and the configuration's own code came from there
        already; with `hf_affectcodec` imported, its classes are taken in any case.

    Raises:
        ValueError: The source lies outside of the configuration's Hub repository.
    """
    if not source.startswith(("./", "../")):
        return {"pretrained_model_name_or_path": source, "revision": revision, "trust_remote_code": False}
    inside = os.path.normpath(source)
    below = not inside.startswith("..")
    if os.path.isdir(config.name_or_path):
        folder = config.name_or_path
    elif not below:
        raise ValueError(f"`{argument}` = {source!r} lies outside of the Hub repository {config.name_or_path!r}")
    else:
        # a snapshot: `from_pretrained(subfolder=)` looks for code in the repository's root
        folder = snapshot_download(config.name_or_path, revision=revision, allow_patterns=f"{inside}/*")
    return {
        "pretrained_model_name_or_path": os.path.normpath(os.path.join(folder, inside)),
        "revision": revision,
        "trust_remote_code": below and type(config).__module__.startswith("transformers_modules"),
    }
