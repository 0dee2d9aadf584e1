"""Files of OTLP, read and made by google.protobuf: a second opinion on what we write and read.

usage: otlp.py spans WITNESS FILE...              every span of WITNESS is in the FILEs once, and no other
       otlp.py record WITNESS FILE                the same of a Collector's record of what its file receiver read: it adds
                                                  the attribute `log.file.name` to each span, and -0.0 becomes 0.0
       otlp.py messages WITNESS FILE              the resource spans of both, one after the other
       otlp.py logs WITNESS FILE...               every log record of WITNESS is in the FILEs once, and no other
       otlp.py metrics WITNESS FILE...            the same of data points
       otlp.py make FOLDER COUNT SEED             messages of every kind, as protobuf and as JSON in several dialects;
                                                  of traces, of logs and of metrics

A FILE that ends in .jsonl holds one TracesData (LogsData, MetricsData) as OTLP JSON a line; any other one, WITNESS too,
holds messages in protobuf, each behind its length (4 bytes, big-endian), as the Collector's file exporter writes them.

OTLP JSON is proto3 JSON but for one thing: trace ids and span ids are hex, where proto3 JSON has base64. Only these
fields are converted here, by name and place; everything else is left to google.protobuf, which refuses unknown fields.
"""

import base64
import difflib
import itertools
import json
import math
import random
import struct
import sys
from collections import Counter
from pathlib import Path

from google.protobuf import json_format
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, MetricsData
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

ID_FIELDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


class Wrong(Exception):
    """What is written is not what should be."""


# Reading.


def messages(path, kind=TracesData):
    if path.suffix != ".jsonl":
        yield from framed(path, kind)
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        raise Wrong(f"{path.name} does not end with a line break")
    for number, line in enumerate(text.decode("utf-8").split("\n")[:-1], 1):
        try:
            yield from_otlp_json(line, kind)
        except (ValueError, json_format.ParseError) as error:
            raise Wrong(f"{path.name}, line {number}: {error}") from error


def framed(path, kind):
    rest = memoryview(path.read_bytes())
    while rest:
        if len(rest) < 4:
            raise Wrong(f"{path.name} ends within a length")
        (length,) = struct.unpack_from(">I", rest)
        if len(rest) < 4 + length:
            raise Wrong(f"{path.name} ends within a message of {length} bytes")
        yield kind.FromString(bytes(rest[4 : 4 + length]))
        rest = rest[4 + length :]


def from_otlp_json(line, kind):
    document = json.loads(line, object_pairs_hook=without_duplicates, parse_constant=no_constant)
    for part in with_ids_of_json(document):
        ids_from_hex(part)
    return json_format.ParseDict(document, kind())


def with_ids_of_json(document):
    for span in below(document, "resourceSpans", "scopeSpans", "spans"):
        yield from [span, *span.get("links", [])]
    yield from below(document, "resourceLogs", "scopeLogs", "logRecords")
    for metric in below(document, "resourceMetrics", "scopeMetrics", "metrics"):
        for data in ["gauge", "sum", "histogram", "exponentialHistogram"]:
            yield from below(metric.get(data, {}), "dataPoints", "exemplars")


def below(document, *path):
    """The objects in the arrays of these names, one in the other."""
    for inner in document.get(path[0], []):
        yield from below(inner, *path[1:]) if path[1:] else [inner]


def ids_from_hex(message):
    for field, length in ID_FIELDS.items():
        if field in message:
            text = message[field]
            if text != text.lower() or len(text) != 2 * length:
                raise ValueError(f"{field} {text!r} is not {length} bytes in lower-case hex")
            message[field] = base64.b64encode(bytes.fromhex(text)).decode()


def without_duplicates(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice in one object: {[key for key, _ in pairs]}")
    return found


def no_constant(text):
    raise ValueError(f"{text} is not JSON")


# Comparing.


def canonical_nan(number):
    """All NaNs are one: JSON has no place for their payload."""
    return math.nan if math.isnan(number) else number


def canonical_nan_and_zero(number):
    """The Collector does not keep the sign of a zero."""
    return canonical_nan(number) + 0.0


def canonical_value(value, canonical):
    kind = value.WhichOneof("value")
    if kind == "double_value":
        value.double_value = canonical(value.double_value)
    elif kind == "array_value":
        for inner in value.array_value.values:
            canonical_value(inner, canonical)
    elif kind == "kvlist_value":
        canonical_attributes(value.kvlist_value.values, canonical)


def canonical_attributes(attributes, canonical):
    for attribute in attributes:
        canonical_value(attribute.value, canonical)


def canonical_resource_spans(by_resource, canonical=canonical_nan):
    canonical_attributes(by_resource.resource.attributes, canonical)
    for by_scope in by_resource.scope_spans:
        canonical_attributes(by_scope.scope.attributes, canonical)
        for span in by_scope.spans:
            canonical_attributes(span.attributes, canonical)
            for part in [*span.events, *span.links]:
                canonical_attributes(part.attributes, canonical)
    return by_resource


def spans_by_id(paths, canonical, added=None):
    """Each span with its resource and scope, serialised. The order of a resource's attributes means nothing."""
    found = {}
    for path in paths:
        for message in messages(path):
            for by_resource in message.resource_spans:
                canonical_resource_spans(by_resource, canonical)
                by_resource.resource.attributes.sort(key=lambda attribute: attribute.key)
                around = [by_resource.resource, by_resource.schema_url]
                for by_scope in by_resource.scope_spans:
                    for span in by_scope.spans:
                        remove_added(span, added)
                        ids = (span.trace_id.hex(), span.span_id.hex())
                        if ids in found:
                            raise Wrong(f"span {ids} stands twice, now in {path.name}")
                        found[ids] = serialised([*around, by_scope.scope, by_scope.schema_url, span])
    return found


def serialised(parts):
    return tuple(
        part if isinstance(part, str) else part.SerializeToString(deterministic=True) for part in parts
    )


def difference(made, came):
    """In lines of protobuf's text format."""
    kinds = [Resource, str, InstrumentationScope, str, Span]

    def lines(parts):
        for kind, part in zip(kinds, parts):
            yield from (f"schema_url: {part}" if kind is str else str(kind.FromString(part))).splitlines()

    found = difflib.unified_diff(list(lines(made)), list(lines(came)), "made", "came", lineterm="")
    return "\n".join(itertools.islice(found, 60))


def remove_added(span, key):
    if key is None:
        return
    left = [attribute for attribute in span.attributes if attribute.key != key]
    if len(left) != len(span.attributes) - 1:
        raise Wrong(f"span {span.span_id.hex()} does not have the attribute {key} once")
    del span.attributes[:]
    span.attributes.extend(left)


def compare_spans(witness, paths, canonical=canonical_nan, added=None):
    made, came = spans_by_id([witness], canonical), spans_by_id(paths, canonical, added)
    wrong = []
    if missing := made.keys() - came.keys():
        wrong.append(f"{len(missing)} of {len(made)} spans are missing, one is {min(missing)}")
    if unknown := came.keys() - made.keys():
        wrong.append(f"{len(unknown)} spans were never made, one is {min(unknown)}")
    changed = sorted(ids for ids in made.keys() & came.keys() if made[ids] != came[ids])
    if changed:
        first = changed[0]
        wrong.append(f"{len(changed)} spans are not the same; of {first}:\n{difference(made[first], came[first])}")
    if wrong:
        raise Wrong("\n".join(wrong))
    print(f"{len(came)} spans")


def log_records(data):
    for by_resource in data.resource_logs:
        for by_scope in by_resource.scope_logs:
            around = [by_resource.resource, by_resource.schema_url, by_scope.scope, by_scope.schema_url]
            for record in by_scope.log_records:
                yield serialised([*around, record])


def data_points(data):
    """Each with its metric, which has no other."""
    for by_resource in data.resource_metrics:
        for by_scope in by_resource.scope_metrics:
            around = [by_resource.resource, by_resource.schema_url, by_scope.scope, by_scope.schema_url]
            for metric in by_scope.metrics:
                if metric.WhichOneof("data") is None:
                    continue
                points = list(getattr(metric, metric.WhichOneof("data")).data_points)
                frame = Metric()
                frame.CopyFrom(metric)
                del getattr(frame, frame.WhichOneof("data")).data_points[:]
                for point in points:
                    yield serialised([*around, frame, point])


def compare_items(signal, witness, paths):
    kind, items = {"logs": (LogsData, log_records), "metrics": (MetricsData, data_points)}[signal]

    def all_of(paths):
        return Counter(item for path in paths for message in messages(path, kind) for item in items(message))

    made, came = all_of([witness]), all_of(paths)
    if made != came:
        missing, unknown = made - came, came - made
        first = [next(iter(some), None) for some in (missing, unknown)]
        counts = f"{missing.total()} of {made.total()} are missing, {unknown.total()} were not made or came twice"
        raise Wrong(f"{counts}; one of each is\n{first[0]}\n{first[1]}")
    print(f"{came.total()} alike")


def compare_messages(witness, path):
    def all_of(path):
        for message in messages(path):
            for by_resource in message.resource_spans:
                yield canonical_resource_spans(by_resource).SerializeToString(deterministic=True)

    made, came = list(all_of(witness)), list(all_of(path))
    if len(made) != len(came):
        raise Wrong(f"{len(made)} resource spans were made, {path.name} has {len(came)}")
    for number, (a, b) in enumerate(zip(made, came)):
        if a != b:
            a, b = ResourceSpans.FromString(a), ResourceSpans.FromString(b)
            raise Wrong(f"{path.name}: resource spans {number} were\n{a}\nand became\n{b}")
    print(f"{len(came)} resource spans")


# Making.

TEXTS = [
    "",
    "GET /orders",
    "grün, 漢字, 🦀, עברית",
    'quote " backslash \\ slash /',
    "\x00\x01\x1f\x7f\x80\n\r\t\b\f",
    "\u2028\u2029\ufeff\uffff\U0010ffff",
    "</script>&amp;<!--",
    "x" * 300,
]
INTEGERS = [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)]
DOUBLES = [0.0, -0.0, 0.1, 1.0, -1.5, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e21, 123456789012345680.0]
DOUBLES += [math.nan, math.inf, -math.inf, math.pi, 2.0**53 + 2]


class Maker:
    """Random messages. Every message has a resource, scopes and spans; every other one keeps empty ones in between."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def some(self, most):
        return range(self.random.randint(0, most))

    def text(self):
        return self.random.choice(TEXTS)

    def value(self, value, depth=0):
        kinds = ["string", "bool", "int", "double", "bytes", "none"] + ["array", "kvlist"] * (depth < 4)
        kind = self.random.choice(kinds)
        if kind == "string":
            value.string_value = self.text()
        elif kind == "bool":
            value.bool_value = self.random.random() < 0.5
        elif kind == "int":
            value.int_value = self.random.choice([*INTEGERS, self.random.randint(-(2**63), 2**63 - 1)])
        elif kind == "double":
            (any_double,) = struct.unpack(">d", self.random.randbytes(8))
            value.double_value = self.random.choice([*DOUBLES, any_double])
        elif kind == "bytes":
            value.bytes_value = self.random.randbytes(self.random.choice([0, 1, 2, 3, 255]))
        elif kind == "array":
            value.array_value.SetInParent()
            for _ in self.some(3):
                self.value(value.array_value.values.add(), depth + 1)
        elif kind == "kvlist":
            value.kvlist_value.SetInParent()
            self.attributes(value.kvlist_value.values, depth + 1)
        else:
            value.SetInParent()

    def attributes(self, attributes, depth=0):
        for _ in self.some(3):
            attribute = attributes.add()
            attribute.key = self.text()
            self.value(attribute.value, depth)

    def number(self, bits):
        return self.random.choice([0, 1, 2**bits - 1, self.random.getrandbits(bits)])

    def event(self, event):
        event.time_unix_nano = self.number(64)
        event.name = self.text()
        self.attributes(event.attributes)
        event.dropped_attributes_count = self.number(32)

    def link(self, link):
        link.trace_id, link.span_id = self.random.randbytes(16), self.random.randbytes(8)
        link.trace_state = self.random.choice(["", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"])
        self.attributes(link.attributes)
        link.dropped_attributes_count = self.number(32)
        link.flags = self.number(32)

    def span(self, span):
        span.trace_id, span.span_id = self.random.randbytes(16), self.random.randbytes(8)
        span.trace_state = self.random.choice(["", "rojo=00f067aa0ba902b7"])
        span.parent_span_id = self.random.choice([b"", self.random.randbytes(8)])
        span.flags = self.number(32)
        span.name = self.text()
        span.kind = self.random.randrange(6)
        span.start_time_unix_nano, span.end_time_unix_nano = self.number(64), self.number(64)
        self.attributes(span.attributes)
        span.dropped_attributes_count = self.number(32)
        for _ in self.some(2):
            self.event(span.events.add())
        span.dropped_events_count = self.number(32)
        for _ in self.some(2):
            self.link(span.links.add())
        span.dropped_links_count = self.number(32)
        if self.random.random() < 0.8:
            span.status.SetInParent()
            span.status.code = self.random.randrange(3)
            span.status.message = self.text()

    def any_of(self, message):
        """Fills a message of any kind: most of its fields, and one of a `oneof` or none."""
        oneofs = {oneof.name: [field.name for field in oneof.fields] for oneof in message.DESCRIPTOR.oneofs}
        chosen = {name: self.random.choice(["", *fields]) for name, fields in oneofs.items()}
        for field in message.DESCRIPTOR.fields:
            oneof = field.containing_oneof
            if self.random.random() < 0.2 if oneof is None else chosen[oneof.name] != field.name:
                continue
            if field.name == "attributes" or field.name.endswith("_attributes"):
                self.attributes(getattr(message, field.name))
            elif field.message_type is not None and field.message_type.name == "AnyValue":
                self.value(getattr(message, field.name))
            elif field.message_type is not None and field.is_repeated:
                for _ in range(self.random.randint(1, 2)):
                    self.any_of(getattr(message, field.name).add())
            elif field.message_type is not None:
                getattr(message, field.name).SetInParent()
                self.any_of(getattr(message, field.name))
            elif field.is_repeated:
                getattr(message, field.name).extend(self.scalar(field) for _ in self.some(3))
            else:
                setattr(message, field.name, self.scalar(field))
        return message

    def scalar(self, field):
        match field.type:
            case field.TYPE_STRING:
                return self.text()
            case field.TYPE_BYTES:
                return self.random.choice([b"", self.random.randbytes(8 if "span" in field.name else 16)])
            case field.TYPE_BOOL:
                return self.random.random() < 0.5
            case field.TYPE_DOUBLE:
                return self.random.choice(DOUBLES)
            case field.TYPE_ENUM:
                return self.random.choice(field.enum_type.values).number
            case field.TYPE_SFIXED64:
                return self.random.choice(INTEGERS)
            case field.TYPE_SINT32:
                return self.random.choice([0, 1, -1, 2**31 - 1, -(2**31)])
            case field.TYPE_FIXED64 | field.TYPE_UINT64:
                return self.number(64)
            case field.TYPE_INT32:
                return self.number(31)
            case _:
                return self.number(32)

    def message(self, with_empty):
        least = 0 if with_empty else 1
        message = TracesData()
        for _ in range(self.random.randint(least, 2)):
            by_resource = message.resource_spans.add()
            by_resource.schema_url = self.text()
            if not with_empty or self.random.random() < 0.8:
                by_resource.resource.SetInParent()
                self.attributes(by_resource.resource.attributes)
                by_resource.resource.dropped_attributes_count = self.number(32)
            for _ in range(self.random.randint(least, 2)):
                by_scope = by_resource.scope_spans.add()
                by_scope.schema_url = self.text()
                if not with_empty or self.random.random() < 0.8:
                    by_scope.scope.SetInParent()
                    by_scope.scope.name, by_scope.scope.version = self.text(), self.text()
                    self.attributes(by_scope.scope.attributes)
                    by_scope.scope.dropped_attributes_count = self.number(32)
                for _ in range(self.random.randint(least, 3)):
                    self.span(by_scope.spans.add())
        return message


def camel(message):
    """As json_format writes by default: enumerations by name; here with everything beyond ASCII escaped."""
    return json_format.MessageToDict(message), str.lower, {}


def as_in_proto(message):
    """Names as in the .proto files, enumerations as numbers, upper-case hex; characters as they are."""
    options = {"preserving_proto_field_name": True, "use_integers_for_enums": True}
    return json_format.MessageToDict(message, **options), str.upper, {"ensure_ascii": False}


def with_defaults(message):
    """Fields that have no presence are written although they are 0 or empty; keys sorted; white space."""
    document = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return document, str.lower, {"sort_keys": True, "separators": (" ,\t", " : ")}


DIALECTS = {"camel": camel, "as-in-proto": as_in_proto, "with-defaults": with_defaults}


def ids_to_hex(document, case):
    for part in with_ids_of_dialect(document):
        for field in [*ID_FIELDS, "trace_id", "span_id", "parent_span_id"]:
            if field in part:
                part[field] = case(base64.b64decode(part[field]).hex())


def with_ids_of_dialect(document):
    """As `with_ids_of_json`, by names of either form."""

    def snake(name):
        return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)

    def inside(document, *path):
        for inner in document.get(path[0]) or document.get(snake(path[0])) or []:
            yield from inside(inner, *path[1:]) if path[1:] else [inner]

    for span in inside(document, "resourceSpans", "scopeSpans", "spans"):
        yield from [span, *span.get("links", [])]
    yield from inside(document, "resourceLogs", "scopeLogs", "logRecords")
    for metric in inside(document, "resourceMetrics", "scopeMetrics", "metrics"):
        for data in ["gauge", "sum", "histogram", "exponentialHistogram", "exponential_histogram"]:
            yield from inside(metric.get(data, {}), "dataPoints", "exemplars")


def make(folder, count, seed):
    maker = Maker(seed)
    for signal, kind in [("logs", LogsData), ("metrics", MetricsData)]:
        made = [maker.any_of(kind()) for _ in range(count)]
        write_framed(folder / f"{signal}.pb", made)
        write_dialects(folder, signal, made)
    whole = [maker.message(with_empty=False) for _ in range(count)]
    loose = [maker.message(with_empty=True) for _ in range(count)]
    write_framed(folder / "whole.pb", whole)
    write_framed(folder / "loose.pb", loose)
    write_dialects(folder, "loose", loose)
    spans = sum(len(by_scope.spans) for m in loose for r in m.resource_spans for by_scope in r.scope_spans)
    print(f"{2 * count} messages in {len(DIALECTS)} dialects, {spans} spans each")


def write_dialects(folder, kind, made):
    for name, dialect in DIALECTS.items():
        with open(folder / f"{kind}-{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for message in made:
                document, case, options = dialect(message)
                ids_to_hex(document, case)
                file.write(json.dumps(document, allow_nan=False, **options) + "\n")


def write_framed(path, made):
    with open(path, "wb") as file:
        for message in made:
            body = message.SerializeToString(deterministic=True)
            file.write(struct.pack(">I", len(body)) + body)


def main(arguments):
    match arguments:
        case ["spans", witness, *files] if files:
            compare_spans(Path(witness), [Path(file) for file in files])
        case ["record", witness, file]:
            compare_spans(Path(witness), [Path(file)], canonical_nan_and_zero, added="log.file.name")
        case ["messages", witness, file]:
            compare_messages(Path(witness), Path(file))
        case ["logs" | "metrics" as signal, witness, *files] if files:
            compare_items(signal, Path(witness), [Path(file) for file in files])
        case ["make", folder, count, seed]:
            make(Path(folder), int(count), int(seed))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Wrong as wrong:
        sys.exit(f"{wrong}")
