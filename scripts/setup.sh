# Sourced by the other scripts. `set_up LEVEL` makes .venv ready and changes to the repository's folder.
# Levels: run, check, test; each has all of the one before it. WITH_HF=1 adds what Hugging Face models need to any of
# them; once installed, that stays a part of the set-up. `set_up_clients` makes what tests/clients starts.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
STAMP=$VENV/llamaherd-setup
CLIENTS=$ROOT/.venv-clients
NODE_CLIENTS=$ROOT/tests/clients/node

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# The oldest Python that will do is 3.11; ensurepip is what Debian puts into python3-venv.
find_python() {
    local name found=
    for name in python3.13 python3.12 python3.11 python3; do
        command -v "$name" >/dev/null || continue
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        found=$name
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    if [ -n "$found" ]; then
        found=$("$found" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        die "$found is there, but not its module for virtual environments." \
            "Install it: apt-get install $found-venv   (or: apt-get install python3-venv)"
    fi
    die "llamaherd needs Python 3.11 or newer, and there is none." \
        "Install it: apt-get install python3 python3-venv"
}

# What an environment depends on: its Python, these files, and the folder, since an environment can't be moved.
stamp_of() {
    local python=$1
    shift
    "$python" -c 'import sys; print(sys.version)' | cat - "$@" <(echo "$ROOT") | sha256sum | cut -d' ' -f1
}

# The extras of a level, in the order in which all of them are written.
extras_of() {
    case $1 in
        run) echo "${WITH_HF:+hf}" ;;
        check | test) echo "test hf" ;; # types of torch are checked too
        *) die "no level of set-up: $1" ;;
    esac
}

set_up() {
    local wanted
    wanted=$(extras_of "$1") || exit 1
    cd "$ROOT" || die "$ROOT can't be entered."
    lock
    install_extras "$wanted"
    exec 9>&- # what runs from here on must not hold the lock
}

# The programs of others that tests/clients starts. They are apart from .venv, since what they want of their libraries
# differs from what the service wants. Those for Node are left out where there is no npm; their tests are then skipped.
set_up_clients() {
    cd "$ROOT" || die "$ROOT can't be entered."
    lock
    install_clients
    if command -v node >/dev/null && command -v npm >/dev/null; then
        install_node_clients
    else
        say "There is no Node with npm: the client for it is not tested."
    fi
    exec 9>&-
}

# The cache folder of what the tests build.
tests_cache() {
    local base=${XDG_CACHE_HOME:-}
    case $base in /*) ;; *) base=$HOME/.cache ;; esac
    echo "$base/llamaherd/tests"
}

lock() {
    if [ -w "$ROOT" ] && command -v flock >/dev/null; then # two that install at once break each other
        exec 9>"$ROOT/.venv.lock"
        flock 9
    fi
}

install_extras() {
    local wanted=$1 stamp done_stamp='' done_extras='' extra extras='' lacking=''
    if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        make_venv
    fi
    stamp=$(stamp_of "$VENV/bin/python" pyproject.toml constraints.txt)
    [ ! -f "$STAMP" ] || read -r done_stamp done_extras <"$STAMP"
    for extra in test hf; do
        case " $done_extras " in
            *" $extra "*) extras+=" $extra" ;;
            *) case " $wanted " in *" $extra "*) extras+=" $extra" lacking=1 ;; esac ;;
        esac
    done
    if [ "$done_stamp" = "$stamp" ] && [ -z "$lacking" ]; then
        return
    fi
    wanted=${extras# }
    wanted=${wanted:+[${wanted// /,}]}
    say "Installing llamaherd$wanted into .venv (a minute or so) ..."
    echo "unfinished$extras" >"$STAMP" # an interrupted installation is done again
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --constraint constraints.txt --editable ".$wanted" ||
        die "The installation failed, see above. Running the same command again continues it."
    echo "$stamp$extras" >"$STAMP"
}

make_venv() {
    local python
    python=$(find_python) || exit 1
    say "Making .venv with $("$python" --version) ..."
    "$python" -m venv --clear "$VENV" || die "$VENV can't be made, see above."
}

install_clients() {
    local wanted stamp=$CLIENTS/llamaherd-setup
    wanted=$(stamp_of "$VENV/bin/python" tests/clients/requirements.txt)
    if [ -x "$CLIENTS/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "Installing the clients of the tests into .venv-clients (half a minute) ..."
    "$VENV/bin/python" -m venv --clear "$CLIENTS" || die "$CLIENTS can't be made, see above."
    # Every package is pinned, so nothing has to be resolved; most modules of theirs are never imported, nor compiled.
    "$CLIENTS/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
        --requirement tests/clients/requirements.txt || die "The installation failed, see above."
    echo "$wanted" >"$stamp"
}

install_node_clients() {
    local wanted stamp=$NODE_CLIENTS/node_modules/llamaherd-setup
    wanted=$(cat "$NODE_CLIENTS/package.json" "$NODE_CLIENTS/package-lock.json" | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "Installing the clients for Node ..."
    # --ignore-scripts: packages are to be unpacked, not to run anything.
    # Not --prefix, with which npm would look for its global settings in there.
    (cd "$NODE_CLIENTS" && npm ci --silent --no-audit --no-fund --ignore-scripts) ||
        die "npm could not install the clients for Node."
    echo "$wanted" >"$stamp"
}
