#!/bin/sh
# Says which Chromium the tests in the browser use. Where there is none, and the system is Debian or Ubuntu and we may
# do so, it is installed; elsewhere the message says how.
set -eu

find_chromium() {
  for name in ${CHROMIUM:-chromium chromium-browser google-chrome google-chrome-stable}; do
    command -v "$name" && return
  done
  return 1
}

find_chromium && exit

if [ -z "${CHROMIUM:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "No Chromium on the PATH: installing the system's." >&2
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -qq >&2 && apt-get install -y -qq chromium >&2 && find_chromium && exit
fi

{
  echo "The tests in the browser need Chromium${CHROMIUM:+, and '$CHROMIUM' is none}."
  echo "Install it (Debian: sudo apt install chromium; others: your system's package manager), or name one that"
  echo "is there: make test-browser CHROMIUM=/path/to/chrome"
} >&2
exit 1
