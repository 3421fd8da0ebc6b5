"""The file that holds the server's signing key: a line `ed25519 VERSION SEED`, the seed in unpadded base64."""

import os
from pathlib import Path

from homeserver.config.model import Config
from homeserver.errors import ConfigError
from homeserver.kit.randomness import Randomness
from homeserver.matrix.signing import SigningKey


def path_of(config: Config) -> Path:
    """Where the key is kept."""
    return Path(config.signing_key_path or Path(config.data_dir) / "signing.key")


def ensure(config: Config, randomness: Randomness) -> SigningKey:
    """The key of the file, which is made if it is not there. Raises `ConfigError` if it is no key."""
    path = path_of(config)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            return create(path, randomness)
        return _parse(path.read_text("ascii"))
    except OSError as error:
        raise ConfigError([("signing_key_path", f"{path} cannot be used: {error.strerror}.")]) from None
    except ValueError:
        raise ConfigError(
            [("signing_key_path", f"{path} holds no signing key: its first line is `ed25519 VERSION SEED`.")]
        ) from None


def create(path: Path, randomness: Randomness) -> SigningKey:
    """Make a new key in a new file that only its owner may read. Raises `OSError`."""
    key = SigningKey.generate("a_" + randomness.letters(4), randomness.bytes(32))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key.key_id.replace(':', ' ')} {key.seed}\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def _parse(text: str) -> SigningKey:
    algorithm, version, seed = text.split("\n", 1)[0].split()
    if algorithm != "ed25519":
        raise ValueError(algorithm)
    return SigningKey.from_seed(version, seed)
