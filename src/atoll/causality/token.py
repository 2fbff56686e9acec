"""Session tokens: a version vector as a short signed text that any region can read back.

    token     = base64url without padding of: version (1 byte) · vector · signature (10 bytes)
    vector    = msgpack map of region number → seq, in order of number, zero components left out;
                a map of incarnation → seq in its place where the region has numbered anew; -1 → its floor
    number    = 21 bits of BLAKE2b over the region's name, so that adding a region changes no other's
    signature = HMAC-SHA256 under the deployment's key and name, cut to 80 bits as RFC 2104 section 5 allows

The signature keeps a client from making reads wait for entries that never existed; it hides nothing.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

import msgspec

from atoll.causality.floor import floor_of
from atoll.causality.origin import MAX_INCARNATION, incarnation_of, is_floor, origin_of, region_of
from atoll.causality.vector import VersionVector
from atoll.errors import ConfigError, InvalidToken

MAX_TOKEN_CHARS = 2048
MAX_SEQ = 1 << 53
"""The highest seq that a token may claim: beyond it JSON clients lose digits."""

_VERSION = b"\x02"
_FLOOR = -1
"""In place of an incarnation."""
_SIGNATURE_BYTES = 10
_NUMBER_BITS = 21
_MIN_KEY_BYTES = 16

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")

_pack_vector = msgspec.msgpack.Encoder().encode
_Component = int | dict[int, int]
_unpack_vector = msgspec.msgpack.Decoder(dict[int, _Component]).decode


def region_token_number(region: str) -> int:
    """The number that stands for a region in tokens; a function of its name alone."""
    digest = hashlib.blake2b(region.encode(), digest_size=4, person=b"atoll-token").digest()
    return int.from_bytes(digest, "big") >> (32 - _NUMBER_BITS)


def token_numbers(regions: Collection[str]) -> dict[int, str]:
    """Number → region. Raises ConfigError for two regions with the same one."""
    names: dict[int, str] = {}
    for region in sorted(set(regions)):
        other = names.setdefault(region_token_number(region), region)
        if other != region:
            raise ConfigError(
                f"the regions {other!r} and {region!r} have the same number in session tokens: "
                "rename the one that was added last"
            )
    return names


class TokenCodec:
    """Encodes and decodes the tokens of one deployment; shared by all sessions of a process.

    `regions` is asked each time. It gives the members and the regions that have left: a token may name either. An
    answer that is the same object as the one before costs nothing. Raises ConfigError for a key under 16 bytes.
    """

    __slots__ = ("_asked", "_names", "_places", "_regions", "_signer")

    def __init__(
        self,
        key: bytes,
        deployment: str,
        regions: Callable[[], Collection[str]],
    ) -> None:
        if len(key) < _MIN_KEY_BYTES:
            raise ConfigError(
                f"the deployment's key has {len(key)} bytes: give it at least {_MIN_KEY_BYTES} random ones"
            )
        self._regions = regions
        self._asked: Collection[str] = ()
        self._names: dict[int, str] = {}
        self._places: dict[str, tuple[int, int]] = {}
        """origin → (its region's number, incarnation)."""
        # Hashing key and name once: each token then costs a copy of this state and one more block.
        self._signer = hmac.new(key, b"atoll session token\0" + deployment.encode() + b"\0", "sha256")

    def encode(self, vector: Mapping[str, int]) -> str:
        """The token for `vector`; raises ConfigError when it names a region that never was one."""
        self._refresh()
        places = self._places
        # Ascending numbers, so that one vector has one encoding whatever the order of its keys.
        found = sorted(
            [(*(places.get(origin) or self._place(origin)), seq) for origin, seq in vector.items()]
        )
        components: dict[int, _Component] = {}
        for number, incarnation, seq in found:
            if not seq:
                continue
            known = components.get(number)
            if known is None:
                components[number] = {incarnation: seq} if incarnation else seq
            else:
                seqs = {0: known} if isinstance(known, int) else known
                components[number] = {**seqs, incarnation: seq}
        signed = _VERSION + _pack_vector(components)
        raw = signed + self._sign(signed)
        # Trailing padding carries nothing: the length says it.
        return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=").decode()

    def decode(self, text: str, issued: Mapping[str, int] | None = None) -> VersionVector:
        """The vector that `text` carries.

        `issued` holds, for the regions whose journal the caller knows to its end (its own, usually), the
        last seq ever given out. Raises InvalidToken; its `details["reason"]` is one of `too-long`,
        `malformed`, `unknown-version`, `bad-signature`, `absurd`, `unknown-region`, `never-issued`.
        """
        if len(text) > MAX_TOKEN_CHARS:
            _refuse("too-long", f"it has {len(text)} characters, and {MAX_TOKEN_CHARS} are the most")
        raw = _from_base64url(text)
        if raw[:1] != _VERSION:
            _refuse("unknown-version", f"version {raw[0]} is not known here, only {_VERSION[0]}")
        signed, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(self._sign(signed), signature):
            _refuse("bad-signature", "it was altered, or issued by another deployment or under another key")
        try:
            components = _unpack_vector(signed[1:])
        except msgspec.MsgspecError as error:
            _refuse("malformed", f"its vector cannot be read ({error})")
        self._refresh()
        vector = self._name(components)
        if issued is not None:
            _require_issued(vector, issued)
        return vector

    def _refresh(self) -> None:
        """Raises ConfigError for two regions with one number (3 in 10,000 deployments of 32 regions)."""
        regions = self._regions()
        if regions is self._asked:
            return
        self._names = token_numbers(regions)
        self._places = {}
        self._asked = regions

    def _sign(self, signed: bytes) -> bytes:
        signer = self._signer.copy()
        signer.update(signed)
        return signer.digest()[:_SIGNATURE_BYTES]

    def _name(self, components: Mapping[int, _Component]) -> VersionVector:
        vector: VersionVector = {}
        names = self._names
        for number, component in components.items():
            region = names.get(number)
            if region is None:
                _refuse(
                    "unknown-region",
                    f"it names a region (number {number}) that never was one here; regions here: "
                    f"{', '.join(sorted(self._names.values()))}",
                )
            seqs = {0: component} if isinstance(component, int) else component
            for incarnation, seq in seqs.items():
                if not (1 <= seq <= MAX_SEQ and _FLOOR <= incarnation < MAX_INCARNATION):
                    _refuse("absurd", f"it claims entry {seq} of incarnation {incarnation} of {region}")
                origin = floor_of(region) if incarnation == _FLOOR else origin_of(region, incarnation)
                vector[origin] = seq
        return vector

    def _place(self, origin: str) -> tuple[int, int]:
        """(region's number, incarnation). Raises ConfigError for a region that never was one."""
        region = region_of(origin)
        if region not in self._names.values():
            raise ConfigError(
                f"the version vector names {region}, but the deployment's regions are "
                f"{', '.join(sorted(self._names.values()))}"
            )
        incarnation = _FLOOR if is_floor(origin) else incarnation_of(origin)
        place = self._places[origin] = (region_token_number(region), incarnation)
        return place


def _from_base64url(text: str) -> bytes:
    """The bytes of `text`, which must be their one canonical spelling; never shorter than an empty token."""
    try:
        encoded = text.encode("ascii").translate(_FROM_URL)
        raw = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are both ValueErrors
        _refuse("malformed", "it is not base64url without padding")
    canonical = binascii.b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=").decode()
    if canonical != text:
        _refuse("malformed", "it is not base64url without padding")
    if len(raw) < len(_VERSION) + 1 + _SIGNATURE_BYTES:
        _refuse("malformed", "it was cut short")
    return raw


def _require_issued(vector: Mapping[str, int], issued: Mapping[str, int]) -> None:
    for region, last in issued.items():
        seq = vector.get(region, 0)
        if seq > last:
            _refuse(
                "never-issued",
                f"it claims entry {seq} of {region}, which has issued {last}: was that region's store "
                "restored from an older copy?",
                region=region,
                seq=seq,
                issued=last,
            )


def _refuse(reason: str, what: str, **details: str | int) -> NoReturn:
    raise InvalidToken(
        f"session token refused: {what}; start a new session without a token", reason=reason, **details
    )
