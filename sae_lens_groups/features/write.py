"""Writes what was found of a suite's features into its folder: the page, and a table."""

from sae_lens_groups import files
from sae_lens_groups.features.page.data import page_files
from sae_lens_groups.features.result import SuiteFeatures
from sae_lens_groups.suite import SAESuite


def write_features(suite: SAESuite, found: SuiteFeatures, *, show_texts: bool = True) -> None:
    """Writes the folder `features`, in place of one that is there."""
    assert suite.path is not None
    with files.replaced_folder(suite.path / files.FEATURES_FOLDER) as folder:
        files.write_text(folder / files.FEATURES_TABLE, files.csv_text(found.rows()))
        (folder / files.FEATURES_DATA).mkdir()
        for name, text in page_files(suite, found, show_texts=show_texts):
            files.write_text(folder / name, text)
