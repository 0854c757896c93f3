# Sourced by the other scripts. `set_up LEVEL` makes .venv ready and changes to the repository's folder.
# Levels: run, check, test; each has all of the one before it. WITH_HF=1 adds what Hugging Face models need to any of
# them; once installed, that stays a part of the set-up. `set_up_clients` makes what tests/clients starts.
# `set_up_web` makes web/ ready to be checked and tested, `build_web` builds what the service serves of it.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
STAMP=$VENV/llamaherd-setup
CLIENTS=$ROOT/.venv-clients
NODE_CLIENTS=$ROOT/tests/clients/node
WEB=$ROOT/web
WEB_BUILT=$ROOT/routes/web_app/built

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

# What the web app needs of Node: the packages of its lock file. Fails where there is no Node that will do.
set_up_web() {
    cd "$ROOT" || die "$ROOT can't be entered."
    node_will_do || return 1
    lock
    install_node_packages "$WEB" "what the web app is made of" || return 1
    exec 9>&-
}

# The files of the web app, where they are not those of these sources. Fails with a word where they can't be made:
# the service runs without them, or with those that it has.
build_web() {
    cd "$ROOT" || die "$ROOT can't be entered."
    local wanted stamp=$WEB/node_modules/llamaherd-built
    if [ ! -w "$ROOT" ]; then
        [ -f "$WEB_BUILT/index.html" ]
        return
    fi
    if ! node_will_do; then
        [ -f "$WEB_BUILT/index.html" ] || say "The web app is not built: that needs Node 20 or newer and npm" \
            "(apt-get install nodejs npm). The API does without."
        return 1
    fi
    wanted=$(web_sources | sha256sum | cut -d' ' -f1)
    if [ -f "$WEB_BUILT/index.html" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! set_up_web; then
        say "The web app is not built, see above. The API does without."
        return 1
    fi
    say "Building the web app ..."
    lock
    if ! (cd "$WEB" && npm run --silent build -- --logLevel warn >&2); then
        say "The web app could not be built, see above. The API does without."
        return 1
    fi
    echo "$wanted" >"$stamp"
    exec 9>&-
}

node_will_do() {
    command -v npm >/dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null
}

web_sources() {
    (cd "$WEB" && find . -path ./node_modules -prune -o -type f -print0 | sort -z | xargs -0 sha256sum)
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
    install_node_packages "$NODE_CLIENTS" "the clients for Node" || die "npm could not install the clients for Node."
}

# The packages of a folder's lock file, where they are not there already.
install_node_packages() {
    local folder=$1 what=$2 wanted stamp=$1/node_modules/llamaherd-setup
    wanted=$(cat "$folder/package.json" "$folder/package-lock.json" | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "Installing $what ..."
    # --ignore-scripts: packages are to be unpacked, not to run anything.
    # Not --prefix, with which npm would look for its global settings in there.
    (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts) || return 1
    echo "$wanted" >"$stamp"
}
