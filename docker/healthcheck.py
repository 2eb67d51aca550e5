"""Exit code 0 while the worker of this container answers 200 on the path given, 1 otherwise.

Takes the port from FORECLICK_WEB, as the worker does; with the web server turned off there is nothing to ask.
"""

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Ask once; what the worker says goes to stdout, where `docker inspect` keeps it."""
    web = os.environ.get("FORECLICK_WEB", "127.0.0.1:6066")
    if not web:
        return 0
    url = f"http://127.0.0.1:{web.rpartition(':')[2]}{sys.argv[1]}"
    try:
        # Straight to this container, whatever proxy its environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
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
