"""The commands `import` and `export`: files of other programs, and depositions for the CryoET Data Portal.

They may import `cli.app`, `cli.options` and `cli.display`; not other commands.
"""

__all__ = ["export_deposition", "export_files", "import_files"]
