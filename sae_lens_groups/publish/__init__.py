"""A suite in a folder goes to the Hugging Face Hub, where plain SAELens loads every layer of it."""

from sae_lens_groups.publish.entry import pretrained_entry
from sae_lens_groups.publish.publication import Publication, PublishOptions, prepared
from sae_lens_groups.publish.push import Published, publish_suite_folder
