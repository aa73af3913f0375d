# What the scripts that make a Debian root share; they source it. As root, with debootstrap.
# shellcheck shell=bash

stop() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2 && exit 1; }

needs_root() { # SCRIPT
  [ "$(id -u)" = 0 ] || stop "a new root can only be made by root" "sudo scripts/$1 ..."
  command -v debootstrap >/dev/null || stop "debootstrap is missing" "apt-get install debootstrap"
}

# Where this machine's Debian packages come from.
mirror_of_this_machine() {
  local mirror
  # shellcheck disable=SC2016  # apt-get's own variable
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
  [ -n "$mirror" ] || stop "this machine's apt sources name no mirror" "--mirror URL"
  echo "$mirror"
}

# What this machine knows about its package mirrors goes into the root: certificates, resolv.conf, settings of apt and pip.
copy_settings() { # ROOT [PATH ...]
  local root=$1 path
  shift
  for path in /etc/resolv.conf /etc/pip.conf /etc/xdg/pip /etc/ssl/certs /etc/apt/apt.conf.d "$@"; do
    [ -e "$path" ] || continue
    mkdir -p "$root$(dirname "$path")"
    rm -rf "${root:?}$path"
    cp -rL "$path" "$root$path"
  done
}

# Runs a line in the shell of ACCOUNT, in FOLDER under the root: with a login's environment, and of this one's what pip
# and TLS go by. Settings NAME=VALUE go along.
type_line() { # ROOT ACCOUNT HOME FOLDER LINE [NAME=VALUE ...]
  local root=$1 account=$2 folder=$4 line=$5 kept=(HOME="$3" USER="$2" LANG=C.UTF-8 "${@:6}")
  while IFS='=' read -r name value; do
    case $name in PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | *_proxy) kept+=("$name=$value") ;; esac
  done < <(env)
  chroot "$root" su "$account" -c \
    "cd '$folder' && exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin $(printf '%q ' "${kept[@]}") sh -c $(printf '%q' "$line")"
}
