#!/usr/bin/env bash
# Run the tests of deploy/: images, Compose, Kubernetes and monitoring. Arguments go to pytest.
#
# As root in CI it first installs what they need from Debian. At a desk it says what is missing, and the tests that need
# it are skipped with the same words.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin

# Program -> the packages that bring it. A podman that is there may lack what Debian only recommends, or have crun in
# place of runc: without these programs no container of the tests starts.
declare -A packages=(
  [podman]="podman iptables catatonit golang-github-containers-common"
  [runc]="runc" [conmon]="conmon" [netavark]="netavark" [aardvark-dns]="aardvark-dns"
  [buildah]="buildah" [mmdebstrap]="mmdebstrap" [promtool]="prometheus" [amtool]="prometheus-alertmanager"
  [chromium]="chromium" [npm]="npm"
)
helpers=/usr/lib/podman:/usr/libexec/podman  # netavark and aardvark-dns are on no PATH
missing=()

# The first try fails where there are no lists of packages, or old ones; three more are for a network or a lock that fails.
install() {
  local round get=("${apt[@]}" install -y --no-install-recommends "${list[@]}")
  "${get[@]}" && return
  for round in 1 2 3; do
    [ "$round" = 1 ] || sleep 10
    "${apt[@]}" update && "${get[@]}" && return
  done
  return 1
}

for program in "${!packages[@]}"; do
  PATH=$PATH:$helpers command -v "$program" >/dev/null || missing+=("$program")
done
if [ "${#missing[@]}" -gt 0 ]; then
  list=()
  for program in "${missing[@]}"; do
    read -ra each <<<"${packages[$program]}"
    list+=("${each[@]}")
  done
  if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # Debian starts a server with its package, and nothing here needs one.
    apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)
    install >&2
  else
    echo "test-deploy: left out for want of ${missing[*]} (apt-get install ${list[*]})" >&2
  fi
fi
[ "$(id -u)" = 0 ] || echo "test-deploy: left out where not root: every test that runs a container" >&2

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$bin/python" -m pytest -m deploy "$@" tests/deploy
