"""The security of the connection, in the form that Faust expects."""

from typing import Any

import faust

from stream_app.kafka.security import security_options
from stream_app.settings import Settings
from stream_app.settings.kafka import OAUTH


def faust_credentials(settings: Settings) -> Any:
    """The options of `security_options` in the form of Faust's `broker_credentials`; None without TLS and login."""
    access = settings.kafka
    options = security_options(access)
    context = options.get("ssl_context")
    if not access.login:
        return faust.SSLCredentials(context) if access.encrypted else None
    if access.sasl_mechanism == OAUTH:
        return faust.auth.OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=context)
    return faust.SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        mechanism=options["sasl_mechanism"],
        ssl_context=context,
    )
