"""A sealed and signed file: some memories can open it, one memory made it, nobody can change it.

Takes bytes from `bundle.py` in pieces and gives them back, knows nothing of what they mean.
docs/formats.md has the layout:

    head         who signed, a fresh X25519 key, and the file's key once for each recipient
    chunks       AES-256-GCM, all of one size; numbered, and the last one marked
    signature    Ed25519, over all of the above

Promises: who is trusted is checked before anything is decrypted, over the whole file; a file that
is cut short, put together anew, or signed by another hand is refused; what has been read counts
only when `EnvelopeReader.finish` returned. One chunk is in RAM at a time. The key of the chunks
depends on the whole head, so that nobody can put another name over a content that he cannot read.

What shows without a key: who signed, for how many, and the size in steps of 64 KiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from procmem.address import Address, address_of, unsealing_key_of
from procmem.errors import InputError, NotRecipientError, UntrustedSignerError
from procmem.key import VaultKey

CHUNK_BYTES = 2**16
MAX_RECIPIENTS = 100

_MAGIC = b"PrMeBNDL"
_VERSION = 1
_KEY_BYTES, _TAG_BYTES, _SIGNATURE_BYTES = 32, 16, 64
_FIXED_HEAD_BYTES = len(_MAGIC) + 4 + 2 * _KEY_BYTES
_WRAPPED_BYTES = _KEY_BYTES + _TAG_BYTES
_SEALED_CHUNK_BYTES = CHUNK_BYTES + _TAG_BYTES
_ONCE = bytes(12)  # the nonce of keys that encrypt one message only
_READ_BYTES = 2**20


class EnvelopeWriter:
    """Writes one file, from its first byte to its last.

    Args:
        file: empty, open for writing.
        key: of the vault that signs.
        recipients: who can open it; each once, at most `MAX_RECIPIENTS`.

    Raises:
        InputError: too many recipients, or an address that no vault has.
    """

    def __init__(self, file: BinaryIO, key: VaultKey, recipients: Sequence[Address]) -> None:
        if not 1 <= len(recipients) <= MAX_RECIPIENTS:
            raise InputError(
                f"{len(recipients)} recipients, wanted 1 to {MAX_RECIPIENTS}; write several files"
            )
        self._file = file
        self._hash = hashlib.sha256()
        self._signing_key = Ed25519PrivateKey.from_private_bytes(key.signing_seed)
        file_key, once = os.urandom(_KEY_BYTES), X25519PrivateKey.generate()
        ours = once.public_key().public_bytes_raw()
        numbers = _VERSION.to_bytes(2, "big") + len(recipients).to_bytes(2, "big")
        head = _MAGIC + numbers + address_of(key).signing_key + ours
        for recipient in recipients:
            theirs = recipient.sealing_key
            try:
                shared = once.exchange(X25519PublicKey.from_public_bytes(theirs))
            except ValueError as error:
                raise InputError(
                    f"{recipient} is not the address of a vault: its key opens nothing"
                ) from error
            wrapping = AESGCM(_wrapping_key(shared, ours, theirs))
            head += wrapping.encrypt(_ONCE, file_key, None)
        self._box = AESGCM(_payload_key(file_key, head))
        self._chunks = 0
        self._waiting = bytearray()
        self._emit(head)

    def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        self._waiting += data
        # One byte more than a chunk: the last chunk must not have gone when `finish` marks it.
        while len(self._waiting) > CHUNK_BYTES:
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]

    def finish(self) -> None:
        """Fills the last chunk up with zeros, seals it and signs the file."""
        self._seal(bytes(self._waiting).ljust(CHUNK_BYTES, b"\0"), last=True)
        self._waiting.clear()
        self._file.write(self._signing_key.sign(_signed_bytes(self._hash.digest())))

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._emit(self._box.encrypt(_nonce(self._chunks, last=last), chunk, None))
        self._chunks += 1

    def _emit(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)


class EnvelopeReader:
    """Reads one file, after checking over its whole length who signed it.

    Args:
        file: open for reading.
        key: of the vault that reads.
        trusted: whose signatures count.

    Attributes:
        signer: which of `trusted` signed.

    Raises:
        UntrustedSignerError: somebody else signed it; nothing was decrypted.
        NotRecipientError: this vault is not among those that can open it.
        ValueError: not such a file, of a newer version, or damaged; the methods likewise.
    """

    signer: Address

    def __init__(self, file: BinaryIO, key: VaultKey, trusted: Sequence[Address]) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        fixed = _read(file, _FIXED_HEAD_BYTES)
        recipients = _recipients(fixed)
        head = fixed + _read(file, recipients * _WRAPPED_BYTES)
        body = size - len(head) - _SIGNATURE_BYTES
        if body <= 0 or body % _SEALED_CHUNK_BYTES:
            raise ValueError(f"it has {size} bytes, which are no whole number of chunks")
        self._count = body // _SEALED_CHUNK_BYTES
        signer, once = fixed[12 : 12 + _KEY_BYTES], fixed[12 + _KEY_BYTES :]
        self.signer = _trusted(signer, trusted)
        self._digest = self._check_signature(head, body)
        file_key = _unwrapped(key, once, head[_FIXED_HEAD_BYTES:])
        self._box = AESGCM(_payload_key(file_key, head))
        self._hash = hashlib.sha256(head)
        file.seek(len(head))
        self._chunks = self._opened_chunks()
        self._ready = bytearray()

    def take(self, size: int) -> bytes:
        """The next bytes. The caller bounds `size`, whatever the file says."""
        while len(self._ready) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise ValueError("its contents end too early")
            self._ready += chunk
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def finish(self) -> None:
        """Checks that nothing is left but the filling of the last chunk.

        The file is the one that was signed: had it changed since it was checked, its hash would
        differ here.
        """
        if any(self._ready) or next(self._chunks, None) is not None:
            raise ValueError("there is more in it than it says")
        if self._hash.digest() != self._digest:
            raise ValueError("it changed while it was read")

    def _check_signature(self, head: bytes, body: int) -> bytes:
        """The hash that was signed."""
        hashed = hashlib.sha256(head)
        for start in range(0, body, _READ_BYTES):
            hashed.update(_read(self._file, min(_READ_BYTES, body - start)))
        signature = _read(self._file, _SIGNATURE_BYTES)
        try:
            public_key = Ed25519PublicKey.from_public_bytes(self.signer.signing_key)
            public_key.verify(signature, _signed_bytes(hashed.digest()))
        except (InvalidSignature, ValueError) as error:  # ValueError: not a point of the curve
            raise ValueError("its signature does not fit") from error
        return hashed.digest()

    def _opened_chunks(self) -> Iterator[bytes]:
        for number in range(self._count):
            sealed = _read(self._file, _SEALED_CHUNK_BYTES)
            self._hash.update(sealed)
            try:
                nonce = _nonce(number, last=number == self._count - 1)
                yield self._box.decrypt(nonce, sealed, None)
            except InvalidTag as error:
                raise ValueError(f"chunk {number} is not what was sealed") from error


def _recipients(fixed: bytes) -> int:
    """How many recipients a file has, by the fixed part of its head."""
    if not fixed.startswith(_MAGIC):
        raise ValueError("it is no bundle")
    version, recipients = int.from_bytes(fixed[8:10], "big"), int.from_bytes(fixed[10:12], "big")
    if version != _VERSION:
        raise ValueError(f"it has version {version}, this procmem reads {_VERSION}: upgrade it")
    if not 1 <= recipients <= MAX_RECIPIENTS:
        raise ValueError(f"it is for {recipients} recipients")
    return recipients


def _trusted(signer: bytes, trusted: Sequence[Address]) -> Address:
    for address in trusted:
        if address.signing_key == signer:
            return address
    raise UntrustedSignerError(
        f"signed by the key {signer.hex()}, which is none of those that were named; take it in "
        "only if you know whose it is, and then name that memory's address"
    )


def _unwrapped(key: VaultKey, once: bytes, wrapped: bytes) -> bytes:
    """The file's key; which of the wrapped ones is for this vault shows by trying."""
    unsealing = unsealing_key_of(key)
    ours = unsealing.public_key().public_bytes_raw()
    shared = unsealing.exchange(X25519PublicKey.from_public_bytes(once))
    box = AESGCM(_wrapping_key(shared, once, ours))
    for start in range(0, len(wrapped), _WRAPPED_BYTES):
        try:
            return box.decrypt(_ONCE, wrapped[start : start + _WRAPPED_BYTES], None)
        except InvalidTag:
            continue
    raise NotRecipientError(
        f"written for {len(wrapped) // _WRAPPED_BYTES} other memories, not for this one; give its "
        f"address to the sender: {address_of(key)}"
    )


def _wrapping_key(shared: bytes, once: bytes, recipient: bytes) -> bytes:
    return _derived(shared, salt=once + recipient, info=b"procmem bundle 1: key of a recipient")


def _payload_key(file_key: bytes, head: bytes) -> bytes:
    return _derived(file_key, salt=hashlib.sha256(head).digest(), info=b"procmem bundle 1: chunks")


def _derived(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=salt, info=info).derive(secret)


def _nonce(number: int, *, last: bool) -> bytes:
    """As in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015)."""
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _signed_bytes(digest: bytes) -> bytes:
    return b"procmem bundle 1\0" + digest


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends too early")
    return data
