"""Commands that train networks. They import `cli.app`, `cli.options` and `cli.display`.

- `group`: the group `train` itself
- `segmentation`: `train segmentation`
- `picking`: `train picking`
- `validation`: `train cross-validate` and `train rounds`
"""

__all__ = ["group", "picking", "segmentation", "validation"]
