"""TLS without a proxy."""

import ssl
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.settings import Settings, SettingsError


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """None without TLS_CERT_FILE. Raises SettingsError for bad files."""
    if not settings.tls_cert_file:
        return None
    _check(Path(settings.tls_cert_file), Path(settings.tls_key_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except ssl.SSLError as error:
        raise SettingsError(f"TLS_KEY_FILE: does not go with TLS_CERT_FILE ({error.reason})") from None
    return context


def _check(cert_file: Path, key_file: Path) -> None:
    """OpenSSL would not say which of the two is bad, and would ask the terminal for a passphrase."""
    from cryptography import x509  # imported here: slow, and needed with TLS only

    try:
        x509.load_pem_x509_certificates(cert_file.read_bytes())
    except ValueError:
        raise SettingsError("TLS_CERT_FILE: must be a certificate in PEM, with its chain behind it") from None
    try:
        load_pem_private_key(key_file.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError("TLS_KEY_FILE: must be an unencrypted private key in PEM") from None
