"""Message models as protobuf types, which are the only types that CEL can check fields against.

Nothing is ever encoded with these types. They say what JSON looks like: quantities, dates and moments are strings there,
and a field that may be null has a wrapper type, so that comparing it with null compiles.
"""

import types
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal, Union, get_args, get_origin

# protobuf ships no type information; it is used only in this module.
from google.protobuf import descriptor_pb2, struct_pb2, wrappers_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from pydantic import AwareDatetime, BaseModel

PACKAGE: Final = "tutti"
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": (_FIELD.TYPE_STRING, ".google.protobuf.StringValue"),
    "int": (_FIELD.TYPE_INT64, ".google.protobuf.Int64Value"),
    "bool": (_FIELD.TYPE_BOOL, ".google.protobuf.BoolValue"),
    "double": (_FIELD.TYPE_DOUBLE, ".google.protobuf.DoubleValue"),
}
_JSON_STRINGS: Final = (str, Decimal, date, datetime, time, AwareDatetime)


def without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation without `None` and without `Annotated`, and whether null was among what it allows."""
    if hasattr(annotation, "__metadata__"):
        return without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [item for item in get_args(annotation) if item is not type(None)]
        nullable = len(kept) < len(get_args(annotation))
        if len(kept) == 1:
            return without_none(kept[0])[0], nullable
        return Any, nullable
    return annotation, annotation is type(None)


def scalar_of(annotation: Any) -> str | None:
    """`string`, `int`, `bool` or `double`: what a bare annotation is in JSON. None for structures."""
    if get_origin(annotation) is Literal:
        kinds = {scalar_of(type(item)) for item in get_args(annotation)}
        return kinds.pop() if len(kinds) == 1 else None
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, bool):
        return "bool"
    if issubclass(annotation, int):
        return "int"
    if issubclass(annotation, float):
        return "double"
    return "string" if issubclass(annotation, _JSON_STRINGS) else None


def item_of(annotation: Any) -> Any | None:
    """The annotation of a list's items; None for what is no list."""
    arguments = get_args(annotation)
    if get_origin(annotation) is list and arguments:
        return arguments[0]
    if get_origin(annotation) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return None


class Descriptors:
    """A pool of message types, filled on demand. `models` maps a type's full name back to its model."""

    def __init__(self) -> None:
        self.pool = DescriptorPool()
        self.models: dict[str, type[BaseModel]] = {}
        self._names: dict[type[BaseModel], str] = {}
        for module in (wrappers_pb2, struct_pb2):
            self.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)

    def add(self, model: type[BaseModel]) -> str:
        """The full type name of a model, added with everything that it contains. Adding it again changes nothing.

        A model that contains itself is untyped from its second level on.
        """
        if model in self._names:
            return self._names[model]
        name = f"{PACKAGE}.{model.__name__}"
        if name in self.models:
            name = f"{name}_{len(self.models)}"
        self._names[model] = name
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{name}.proto",
            package=PACKAGE,
            syntax="proto3",
            dependency=["google/protobuf/wrappers.proto", "google/protobuf/struct.proto"],
        )
        message = descriptor_pb2.DescriptorProto(name=name.removeprefix(f"{PACKAGE}."))
        for number, (field, info) in enumerate(model.model_fields.items(), start=1):
            message.field.append(self._field(file, field, number, info.annotation))
        file.message_type.append(message)
        self.pool.AddSerializedFile(file.SerializeToString())
        self.models[name] = model
        return name

    def _field(self, file: Any, name: str, number: int, annotation: Any) -> Any:
        bare, nullable = without_none(annotation)
        item = None if nullable else item_of(bare)
        if item is None:
            kind, type_name = self._type(file, bare, nullable)
            label = _FIELD.LABEL_OPTIONAL
        else:
            kind, type_name = self._type(file, *without_none(item))
            label = _FIELD.LABEL_REPEATED
        return _FIELD(name=name, number=number, label=label, type=kind, type_name=type_name)

    def _type(self, file: Any, bare: Any, nullable: bool) -> tuple[int, str | None]:
        scalar = scalar_of(bare)
        if scalar is not None:
            plain, wrapper = _SCALARS[scalar]
            return (_FIELD.TYPE_MESSAGE, wrapper) if nullable else (plain, None)
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            name = self.add(bare)
            if name in self.models:
                dependency = f"{name}.proto"
                if dependency not in file.dependency:
                    file.dependency.append(dependency)
                return _FIELD.TYPE_MESSAGE, f".{name}"
        if item_of(bare) is not None:
            return _FIELD.TYPE_MESSAGE, ".google.protobuf.ListValue"
        return _FIELD.TYPE_MESSAGE, ".google.protobuf.Value"
