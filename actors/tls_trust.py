"""How our own commands trust the application's certificate.

They know the very file that it serves, so they trust that and nothing else, by whatever name they
reach it: it may be signed by nobody, and made for another name than 127.0.0.1.
"""

from __future__ import annotations

import ssl

from actors.cluster_info import ClusterInfo
from mulm.errors import ConfigError


def trust_of(info: ClusterInfo) -> ssl.SSLContext | bool:
    """What `verify` of an HTTP client is to be.

    Raises:
        ConfigError: the certificate cannot be read.
    """
    if info.tls_cert is None:
        return True
    try:
        context = ssl.create_default_context(cafile=info.tls_cert)
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {info.tls_cert!r}: {error}") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
