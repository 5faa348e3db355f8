#!/bin/sh
# Says which browser the tests use: find_browser.sh CHROMIUM chromium chromium-browser ... looks for the program that the
# variable CHROMIUM names, else for one of the others. Where there is none, and the system is Debian or Ubuntu and we may
# do so, the package with the first name is installed; elsewhere the message says how.
set -eu

variable=$1
package=$2
shift
named=$(printenv "$variable" || true)

find_browser() {
  for name in ${named:-"$@"}; do
    command -v "$name" && return
  done
  return 1
}

find_browser "$@" && exit

if [ -z "$named" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "No $package on the PATH: installing the system's." >&2
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -qq >&2 && apt-get install -y -qq "$package" >&2 && find_browser "$@" && exit
fi

{
  echo "The tests in the browser need $package${named:+, and '$named' is none}."
  echo "Install it (Debian: sudo apt install $package; others: your system's package manager), or name one that"
  echo "is there: make test-browser $variable=/path/to/it"
} >&2
exit 1
