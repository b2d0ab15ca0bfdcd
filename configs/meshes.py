"""Three ways to lay a model over devices, for `config.mesh.update(…)`; -1 is all that are left."""


def replicated() -> dict[str, int]:
    """Every device holds the whole state: for a model much smaller than a device's memory."""
    return {"data": -1, "fsdp": 1, "tensor": 1}


def fsdp(shards: int = -1) -> dict[str, int]:
    """The state in parts over `shards` devices; groups of so many repeat it, and share rows."""
    return {"data": 1 if shards == -1 else -1, "fsdp": shards, "tensor": 1}


def fsdp_tensor(tensor: int, shards: int = -1) -> dict[str, int]:
    """And each layer computed in parts by `tensor` neighbours: for layers too wide for one."""
    return {**fsdp(shards), "tensor": tensor}
