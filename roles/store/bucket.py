"""Blocks as objects of an S3-compatible bucket, by their sha256. The bucket is not trusted: what it gives is hashed.

    PREFIX/ab/<64 hex>       one block
    PREFIX/corrupt/<64 hex>  a block whose bytes did not fit its name; kept for people, never served

An object is durable once the bucket has said that it is there. Credentials are found as other tools find them: in the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION) or in the files and roles that botocore knows.
"""

import base64
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from protocol.content import BLOB_BYTES_MAX, compute_digest
from protocol.errors import MissingBlob
from roles.store.files import CORRUPT_FILES_MAX

CONNECT_S, READ_S = 5, 30
TRIES = 4  # of one request, the first included; botocore waits longer after each
CONNECTIONS_MAX = 10
PAGE = 1_000  # names in one answer
REGION = "us-east-1"  # what servers of one's own are content with
ROOM = 2**62  # bytes: a bucket has no end, the quota has
MISSING = ("404", "NoSuchKey", "NotFound")
_NAME = re.compile(r"[0-9a-f]{64}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(\w[\w.-]*(/\w[\w.-]*)*)?", re.ASCII)


class BucketFailed(OSError):
    """The bucket cannot be reached, refuses us, or answers nonsense: nobody can tell what is in it."""

    def __init__(self, place: "BucketPlace", reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place


class NoBucketLibrary(Exception):
    """The library for buckets is an extra that is not installed."""

    def __init__(self) -> None:
        super().__init__("buckets need botocore, which is not installed: pip install 'rolemesh[s3]'")


class BucketPlace(NamedTuple):
    """A bucket: `https://HOST/BUCKET/PREFIX`, the prefix perhaps empty."""

    endpoint: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.bucket}/{self.prefix}".rstrip("/")


def parse_bucket(text: str) -> BucketPlace:
    """A bucket by its URL. ValueError.

    >>> parse_bucket("http://127.0.0.1:9000/blocks/node-1")
    BucketPlace(endpoint='http://127.0.0.1:9000', bucket='blocks', prefix='node-1')
    """
    parts = urlsplit(text)
    bucket, _, prefix = parts.path.strip("/").partition("/")
    is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError(f"{text!r} is no bucket like https://HOST/BUCKET/PREFIX")
    if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{text!r}: a bucket's name has 3 to 63 small letters, digits, dots and dashes")
    return BucketPlace(f"{parts.scheme}://{parts.netloc}", bucket, prefix)


class BucketBlocks:
    """See `roles.store.blocks.Blocks`. Its client may be used by many threads."""

    def __init__(self, place: BucketPlace) -> None:
        """Asks the bucket nothing yet. Raises NoBucketLibrary, BucketFailed."""
        self._place = place
        self._client = _make_client(place)

    def write(self, put: int, digest: bytes, data: bytes | memoryview) -> bool:
        checksum = base64.b64encode(digest).decode()
        if self._find(digest) == (len(data), checksum):
            return False
        # The bucket checks the bytes it has got against their name, too.
        checks: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum}
        self._ask("put_object", Key=self._key(digest), Body=bytes(data), **checks)
        return True

    def sync(self, shards: set[str]) -> None:
        """What the bucket has taken is durable."""

    def read(self, digest: bytes) -> bytes:
        found: bytes | None = self._ask("get_object", Key=self._key(digest), default=None, take=_read_body)
        if found is None or compute_digest(found) != digest:
            raise MissingBlob(digest)
        return found

    def read_into(self, digest: bytes, room: bytearray) -> bytes | memoryview:
        return self.read(digest)

    def has_file(self, digest: bytes) -> bool:
        return self._find(digest) is not None

    def remove(self, digest: bytes) -> None:
        self._ask("delete_object", Key=self._key(digest))

    def move_aside(self, digest: bytes) -> None:
        if self._ask("list_objects_v2", Prefix=self._name("corrupt", ""))["KeyCount"] >= CORRUPT_FILES_MAX:
            self.remove(digest)  # those that are there tell people enough
            return
        source = {"Bucket": self._place.bucket, "Key": self._key(digest)}
        self._ask("copy_object", Key=self._name("corrupt", digest.hex()), CopySource=source, default=None)
        self.remove(digest)

    def list_shard(self, shard: str) -> list[bytes]:
        prefix = self._name(shard, "")
        found: list[bytes] = []
        after: dict[str, Any] = {}
        while True:
            page = self._ask("list_objects_v2", Prefix=prefix, MaxKeys=PAGE, **after)
            names = (str(item["Key"]).removeprefix(prefix) for item in page.get("Contents", ()))
            found += [bytes.fromhex(name) for name in names if _NAME.fullmatch(name) and name[:2] == shard]
            if not page.get("IsTruncated"):
                return found
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def is_empty(self) -> bool:
        return not self._ask("list_objects_v2", Prefix=self._name(""), MaxKeys=1).get("KeyCount")

    def list_temporary(self) -> Iterator[tuple[int, Path]]:
        """An object is there whole or not at all."""
        return iter(())

    def count_free_bytes(self) -> int:
        return ROOM

    def _find(self, digest: bytes) -> tuple[int, str] | None:
        """Size, and sha256 by the bucket's word where it keeps that, of what stands under a name."""
        found = self._ask("head_object", Key=self._key(digest), ChecksumMode="ENABLED", default=None)
        return None if found is None else (int(found["ContentLength"]), str(found.get("ChecksumSHA256", "")))

    def _ask(
        self, what: str, *, default: Any = ..., take: Callable[[Any], Any] = lambda answer: answer, **fields: Any
    ) -> Any:
        """One request, repeated when that may help. `default` is for what is not there. Raises BucketFailed."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            return take(getattr(self._client, what)(Bucket=self._place.bucket, **fields))
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in MISSING and default is not ...:
                return default
            raise BucketFailed(self._place, str(error)) from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise BucketFailed(self._place, str(error)) from error

    def _key(self, digest: bytes) -> str:
        name = digest.hex()
        return self._name(name[:2], name)

    def _name(self, *parts: str) -> str:
        return "/".join((self._place.prefix, *parts)) if self._place.prefix else "/".join(parts)


def _read_body(answer: Any) -> bytes:
    """No more than a block may have, whatever the bucket says."""
    with answer["Body"] as body:
        data: bytes = body.read(BLOB_BYTES_MAX + 1)
    return data


def _make_client(place: BucketPlace) -> Any:
    if importlib.util.find_spec("botocore") is None:
        raise NoBucketLibrary
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.session import get_session

    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
        max_pool_connections=CONNECTIONS_MAX,
        s3={"addressing_style": "path"},
    )
    session = get_session()
    try:
        region = session.get_config_variable("region") or REGION
        return session.create_client("s3", region_name=region, endpoint_url=place.endpoint, config=config)
    except BotoCoreError as error:
        raise BucketFailed(place, str(error)) from error
