#!/bin/sh
# Runs Snakemake with the given arguments, one run at a time in this folder (`make run`).
set -eu
cd "$(dirname "$0")"

fail() {
    echo "$1" >&2
    exit 2
}

# Snakemake meets a config file that is not there with a traceback.
before=
for word; do
    [ "$before" != --configfile ] || [ -f "$word" ] || fail "$word: expected a config's YAML file, found no such file"
    before=$word
done

# Snakemake inherits the descriptor: the lock is free only when no Snakemake that was started here is alive.
exec 9>.make.lock
flock -n 9 || { echo "Another run is at work in this folder; waiting for it to end."; flock 9; }

# So a lock of Snakemake's own is a killed run's, unless somebody runs Snakemake by hand. A killed run's job may live on:
# its successor waits for it.
if [ -n "$(ls .snakemake/locks 2>/dev/null)" ]; then
    for process in /proc/[0-9]*; do
        {
            [ "$(readlink "$process/cwd")" = "$(pwd -P)" ] &&
                tr '\0' ' ' <"$process/cmdline" | grep -Eq -e '-m snakemake ' -e 'bin/snakemake '
        } 2>/dev/null || continue
        fail "a Snakemake started by hand (process ${process#/proc/}) is at work in this folder; wait until it has ended"
    done
    echo "An earlier run was killed; removing its lock."
    .venv/bin/python -m snakemake --unlock "$@" >/dev/null 2>&1 || true  # the run itself says what is wrong
fi
exec .venv/bin/python -m snakemake "$@"
