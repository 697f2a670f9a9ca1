#!/bin/sh
# Installs Debian's SLURM and munge, as root, without letting the packages start daemons of their own.
set -eu
missing=
for program in slurmctld slurmd munged sbatch; do # of several, dash's command -v looks for the first alone
    command -v "$program" >/dev/null || missing=$program
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "tests/cluster/install.sh: installing SLURM needs root" >&2; exit 2; }
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends slurm-wlm slurm-wlm-basic-plugins munge
