"""SchemaImport: `validation.schema_file` → Schema, for the nodes that hold the data against it.

TFX's ImportSchemaGen does the same, but is run again only when the file's name changes, not when the file does.
"""

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import io_utils


@component
def SchemaImport(
    schema: OutputArtifact[standard_artifacts.Schema],
    schema_file: Parameter[str],  # a TFDV schema as text
    fingerprint: Parameter[str],  # of the file's content: it is part of the cache key
) -> None:
    io_utils.copy_file(schema_file, f"{schema.uri}/schema.pbtxt", overwrite=True)
