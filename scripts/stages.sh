# Sourced by check and test: run named steps, say how long each took, and remember which failed.

failed=
skipped=
script=${0##*/}

stage() { # name, then the command
    stage_name=$1
    shift
    echo "── $stage_name"
    stage_began=$(date +%s)
    if "$@"; then
        stage_result=ok
    else
        stage_result=FAILED
        failed="$failed, $stage_name"
    fi
    echo "── $stage_name: $stage_result, $(($(date +%s) - stage_began)) s"
}

skip() { # what the running stage leaves out, having said why
    skipped="$skipped, $1"
}

finish() { # exit with what came out of all steps
    if [ -n "$failed" ]; then
        echo "scripts/$script: failed: ${failed#, }" >&2
        exit 1
    fi
    echo "scripts/$script: all passed${skipped:+; left out: ${skipped#, }}"
}

need_cargo() {
    command -v cargo >/dev/null 2>&1 || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    export PATH
}
