"""Models on this disk: what a source means and where its files go; fetch, import, verify and remove them."""

from manager.model_store.choices import BadSource, Choice, ChoiceNeeded
from manager.model_store.importing import import_file
from manager.model_store.manifest import Manifest, ManifestFile, manifests
from manager.model_store.placing import Pulled, Way
from manager.model_store.plan import Plan, PlannedFile
from manager.model_store.pull import pull
from manager.model_store.removal import Removal, check_deletable, plan_removal, remove
from manager.model_store.resolve import resolve
from manager.model_store.source import parse_source
from manager.model_store.suggest import suggested_entry
from manager.model_store.verify import FileCheck, verify

__all__ = [
    "BadSource",
    "Choice",
    "ChoiceNeeded",
    "FileCheck",
    "Manifest",
    "ManifestFile",
    "Plan",
    "PlannedFile",
    "Pulled",
    "Removal",
    "Way",
    "check_deletable",
    "import_file",
    "manifests",
    "parse_source",
    "plan_removal",
    "pull",
    "remove",
    "resolve",
    "suggested_entry",
    "verify",
]
