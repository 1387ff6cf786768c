"""Objects in a folder of any fsspec store, with atomic writes and translated errors.

The only package that imports fsspec. It imports nothing of `membrain_cloud` but `atomic` and `errors`.

- `error_mapping` : errors of disks and stores as errors of this package
- `file_system` : the fsspec file system of a URL
- `io_meter` : count what one task reads and writes, and flush it to the disk
- `local_files` : atomic writes on local disks
- `lock` : one writer at a time for a small object
- `object_info` : what a listing says of an object
- `object_store` : `Files`, the objects below one URL
"""

__all__ = ["error_mapping", "file_system", "io_meter", "local_files", "lock", "object_info", "object_store"]
