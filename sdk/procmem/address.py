"""A vault's address: what other vaults must know to send it something and to recognize its hand.

Takes the secrets of `key.py`, gives keys to `envelope.py` and `revocation.py`. An address is two
public keys with a checksum, as one text that people can read out or send in any way that shows
whose it is: an Ed25519 key, the one of the vault's receipts, that its signatures are checked with,
and an X25519 key that bundles to it are encrypted to.

    procmem1qmqkkglx3dbyzk...    117 letters and digits

The X25519 key follows from the vault's signing key (HKDF-SHA256), so that `KEY` stays as it was.
Knows nothing of items.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procmem.errors import InputError
from procmem.key import VaultKey, read_key
from procmem.receipt import public_key_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from procmem.memory import VisualMemory

PREFIX = "procmem1"
KEY_BYTES = 32

_CHECKSUM_BYTES = 4
_SEALING = b"procmem bundle 1: X25519 key of a vault"


@dataclass(frozen=True, slots=True)
class Address:
    """The public keys of one vault.

    Attributes:
        signing_key: 32 bytes, Ed25519; `MemoryStats.receipt_key` is the same in hexadecimal.
        sealing_key: 32 bytes, X25519.
    """

    signing_key: bytes
    sealing_key: bytes

    def __str__(self) -> str:
        """The text that `read_address` reads."""
        keys = self.signing_key + self.sealing_key
        stored = base64.b32encode(keys + _checksum(keys)).decode()
        return PREFIX + stored.rstrip("=").lower()


def vault_address(memory: VisualMemory) -> str:
    """The text by which other memories share with this one, and trust it.

    Public, and the same for good; tells nothing of what the memory holds.

    Raises:
        VaultFormatError: the vault's key is missing or damaged.
    """
    return str(address_of(read_key(memory.path)))


def address_of(key: VaultKey) -> Address:
    """The address of the vault that has this key."""
    return Address(public_key_of(key), unsealing_key_of(key).public_key().public_bytes_raw())


def unsealing_key_of(key: VaultKey) -> X25519PrivateKey:
    """The private key with which bundles to a vault are opened."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=_SEALING).derive(key.signing_seed)
    return X25519PrivateKey.from_private_bytes(derived)


def read_address(text: object) -> Address:
    """Reads an address.

    Raises:
        InputError: it is none, or has a slip of the pen; the checksum finds nearly all of those.
    """
    if not isinstance(text, str):
        raise InputError(f"an address is {text!r:.80}, wanted the text of `procmem address`")
    try:
        body = text.strip().removeprefix(PREFIX).upper()
        data = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):
        data = b""
    keys, checksum = data[: 2 * KEY_BYTES], data[2 * KEY_BYTES :]
    address = Address(keys[:KEY_BYTES], keys[KEY_BYTES:])
    if checksum != _checksum(keys) or str(address) != text.strip():
        raise InputError(
            f"{text!r:.140} is not the address of a memory, or was copied with a mistake; it "
            f"begins with {PREFIX!r}, and `procmem address` shows it on the other device"
        )
    return address


def read_addresses(name: str, texts: str | Iterable[str]) -> list[Address]:
    """Reads one address or several.

    Args:
        name: of the argument, for the message.
        texts: at least one.

    Returns:
        Each once, ascending by their bytes.

    Raises:
        InputError: none was given, or one of them is no address.
    """
    if not isinstance(texts, (str, Iterable)):
        raise InputError(f"{name} is {texts!r:.80}, wanted an address or several")
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise InputError(
            f"{name} names no memory, wanted at least one address, as `procmem address` shows it "
            "on the other device"
        )
    found = {read_address(text) for text in given}
    return sorted(found, key=lambda one: (one.signing_key, one.sealing_key))


def _checksum(keys: bytes) -> bytes:
    return hashlib.sha256(b"procmem address 1" + keys).digest()[:_CHECKSUM_BYTES]
