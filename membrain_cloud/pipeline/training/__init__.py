"""Training on projects and folders: data, defaults, one training, cross-validation and rounds.

It may import `training`, the other packages of the pipeline (except `projects`), `store`, `report` and the science
packages.

Modules:

- `labelled_volumes`: labelled volumes of projects and of folders in MemBrain-seg's layout.
- `segmentation`: training of a segmentation network; `segmentation_data` prepares its patches.
- `training_job`: one training with scores on held-out tomograms, as a job for a worker.
- `cross_validation`: cross-validation, and rounds of training on more and more data sets.
- `membrain_pick_folder`: folders in MemBrain-pick's layout.
- `picker_data`: membranes to train a picker on.
- `picker`: training of a picker on annotated membranes.
- `picker_defaults`: default settings of pickers, and training on phantoms.
"""

__all__ = [
    "cross_validation",
    "labelled_volumes",
    "membrain_pick_folder",
    "picker",
    "picker_data",
    "picker_defaults",
    "segmentation",
    "segmentation_data",
    "training_job",
]
