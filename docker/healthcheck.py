"""Exit code 0 while the worker of this container answers 200 on the path given, 1 otherwise.

Takes the port from FORECLICK_WEB, and https from FORECLICK_WEB_CERT, as the worker does; with the web server turned
off there is nothing to ask. Health pages say their status without a token.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Ask once; what the worker says goes to stdout, where `docker inspect` keeps it."""
    web = os.environ.get("FORECLICK_WEB", "127.0.0.1:6066")
    if not web:
        return 0
    scheme = "https" if os.environ.get("FORECLICK_WEB_CERT") else "http"
    url = f"{scheme}://127.0.0.1:{web.rpartition(':')[2]}{sys.argv[1]}"
    # Its certificate is for another name than 127.0.0.1, and nothing secret is said here.
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        # Straight to this container, whatever proxy its environment names.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
        )
        with opener.open(url, timeout=2) as answer:
            sys.stdout.write(answer.read().decode())
            return 0
    except urllib.error.HTTPError as error:
        with error:
            sys.stdout.write(error.read().decode())
        return 1
    except OSError as error:
        sys.stdout.write(f"no answer from {url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
