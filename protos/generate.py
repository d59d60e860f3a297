"""Compiles the contracts: `generate.py` writes `protos/gen`, `generate.py --image FILE` an image for buf.

grpc_tools' own protoc makes the stubs. `buf/validate/validate.proto`, which the contracts import, is not in
the repository: its descriptor is taken from the installed protovalidate package, so that the rules the stubs
carry and the rules the library checks are of one version, and nothing is fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb  # the package publishes no other way to its own proto

PROTOS = Path(__file__).resolve().parent
VALIDATE = "buf/validate/validate.proto"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protos", type=Path, default=PROTOS, help="folder of the .proto files (default: this one)")
    parser.add_argument("--out", type=Path, default=PROTOS / "gen", help="where the stubs go (default: protos/gen)")
    parser.add_argument("--image", type=Path, help="write a descriptor image with comments to this file instead")
    options = parser.parse_args(arguments)
    sources = sorted(str(path.relative_to(options.protos)) for path in (options.protos / "bulkscribe").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        imports = Path(scratch, "imports.binpb")
        imports.write_bytes(imported_descriptors().SerializeToString())
        if options.image:
            compile_protos(
                options.protos,
                imports,
                ["--include_source_info", "--include_imports", f"--descriptor_set_out={options.image}"],
                sources,
            )
        else:
            write_stubs(options.protos, options.out, imports, sources)
    return 0


def imported_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Everything that the contracts import, as one set."""
    found = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(found.file.add())
    found.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return found


def write_stubs(protos: Path, out: Path, imports: Path, sources: Sequence[str]) -> None:
    for folder in ("bulkscribe", "buf"):
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    compile_protos(protos, imports, [f"--python_out={out}", f"--pyi_out={out}"], [*sources, VALIDATE])
    compile_protos(protos, imports, [f"--grpc_python_out={out}"], sources)
    for package in ("bulkscribe", "buf"):
        for folder in [out / package, *(path for path in (out / package).rglob("*") if path.is_dir())]:
            (folder / "__init__.py").touch()


def compile_protos(protos: Path, imports: Path, outputs: Sequence[str], sources: Sequence[str]) -> None:
    status = protoc.main(["protoc", f"-I{protos}", f"--descriptor_set_in={imports}", *outputs, *sources])
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
