#!/usr/bin/env bash
# Runs in the guest. One line a check; ends with "N passed, N failed", and non-zero when one failed.
# shellcheck disable=SC2016 # what is single-quoted is evaluated later, or in a sandbox
set -u
passed=0
failed=0
check() { # check NAME ACTUAL EXPECTED
  if [ "$2" = "$3" ]; then passed=$((passed + 1)); echo "ok - $1"; else failed=$((failed + 1)); echo "not ok - $1: got '$2', expected '$3'"; fi
}
# await SECONDS EXPRESSION: evaluated again and again until it succeeds.
await() { local end=$((SECONDS + $1)); until eval "$2" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.3; done; }
# within NAME SECONDS EXPRESSION: a check that it comes true in time.
within() { check "$1" "$(await "$2" "$3" && echo yes)" yes; }

api() { curl -sS -m 120 -H "Authorization: Bearer $key" -H 'Content-Type: application/json' "$@"; }
sandbox() { api -X "${3:-GET}" "http://127.0.0.1:3000/api/sandbox/$1${2:+/$2}" ${4:+-d "$4"}; }
create() { api -X POST http://127.0.0.1:3000/api/sandbox -d "$1" | jq -r '.id // .message'; }
state() { sandbox "$1" | jq -r .state; }
toolbox() { api "http://127.0.0.1:3000/toolbox/$1/$2" "${@:3}"; }
execute() { jq -n --arg c "$2" '{command: $c}' | toolbox "$1" process/execute -X POST -d @- | jq -r '.result // .message'; }
runner() { api http://127.0.0.1:3000/api/runners | jq -r ".[0].$1"; }
# shown UNIT PROPERTY...: their values, in this order.
shown() { local unit=$1 property values=(); shift; for property in "$@"; do values+=("$(systemctl show -P "$property" "$unit")"); done; echo "${values[*]}"; }
main_pid_of() { systemctl show -P MainPID "$1"; }
main_pid() { main_pid_of pinfold-up; }
answers() { curl -sf -m 5 http://127.0.0.1:3000/api/health; }
started() { docker inspect -f '{{.State.StartedAt}}' "$1"; }
section() { printf '# %s, %s s\n' "$1" "$SECONDS"; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -y -qq "$@" >>/tmp/apt.log 2>&1; }

check "PID 1 is systemd" "$(cat /proc/1/comm)" systemd
check "cgroup v2 alone" "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs

# The numbers are those of the pains that this proves mended.
section "install (51: hardening broke the runner)"
# As in an image build: nothing may be started, and nothing is.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt install /root/pinfold.deb
check "the package installs" $? 0
check "it does not start unconfigured" "$(systemctl is-active pinfold pinfold-up | sort -u)" inactive
rm /usr/sbin/policy-rc.d
for unit in pinfold pinfold-up; do
  check "$unit.service verifies" "$(systemd-analyze verify --man=no /lib/systemd/system/$unit.service 2>&1)" ""
  check "$unit.service is confined" "$(systemd-analyze security --threshold=62 $unit.service >/dev/null 2>&1 && echo yes)" yes
done
check "the settings are root's alone" "$(stat -c %a /etc/pinfold/pinfold.env)" 600
check "a runner without settings ends with 2" "$(env -i pinfold run >/dev/null 2>&1; echo $?)" 2
systemctl start pinfold 2>/dev/null
check "and its unit is not started again and again" "$(shown pinfold ActiveState ExecMainStatus NRestarts)" "failed 2 0"
systemctl reset-failed pinfold

section "in service"
# Hosts beyond the sandboxes' bridge, and a name server that this machine asks.
ip netns add outside
ip link add outside0 type veth peer name eth0 netns outside
ip addr add 198.51.100.1/24 dev outside0
ip link set outside0 up
for host in 10 20; do ip -n outside addr add 198.51.100.$host/24 dev eth0; done
ip -n outside link set eth0 up
ip -n outside route add default via 198.51.100.1
systemd-run -q --unit=outside ip netns exec outside busybox nc -ll -p 8080 -e echo hello
systemd-run -q --unit=names python3 /root/names.py serve 53 /tmp/names.log 198.51.100.10 10.99.0.1
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
printf 'PINFOLD_SNAPSHOT_IMAGE=pinfold/test:1\nPINFOLD_DRAIN_TIMEOUT=10s\n' >>/etc/pinfold/pinfold.env
systemctl enable --now pinfold-up >/tmp/start.log 2>&1
check "the service starts" "$(systemctl is-active pinfold-up)" active
check "and said so itself" "$(shown pinfold-up Type StatusText | cut -d: -f1)" "notify pinfold is up"
within "its API answers" 60 answers
key=$(cat /var/lib/pinfold/api-key)
within "its runner is ready" 60 '[ "$(runner state)" = ready ]'
check "the journal has no key in it" "$(journalctl -u pinfold-up | grep -c "$key")" 0
check "nobody but root reads the key" "$(stat -c %a /var/lib/pinfold/api-key)" 600

section "figures on cgroup v2 (35, 38: wrong or the host's figures)"
memory_of_machine=$(awk '/MemTotal/ { printf "%.1f", $2 / 1048576 }' /proc/meminfo)
check "CPUs are this machine's" "$(runner cpu)" "$(nproc)"
check "memory is this machine's" "$(printf %.1f "$(runner memory)")" "$memory_of_machine"
check "disk is the engine's filesystem" "$(printf %.0f "$(runner disk)")" "$(df --output=size -B1 /var/lib/docker | tail -1 | awk '{ printf "%.0f", $1 / 1073741824 }')"
check "use is measured" "$(runner currentMemoryUsagePercentage | awk '{ print ($1 > 1 && $1 < 100) }')" 1
systemctl set-property --runtime system.slice MemoryMax=2G
within "a limit of the slice is the node's size" 40 '[ "$(printf %.1f "$(runner memory)")" = 2.0 ]'
systemctl set-property --runtime pinfold-up.service MemoryMax=1G
# shellcheck disable=SC2034 # the condition reads it
seen=$(runner lastChecked)
within "the runner reports again" 40 '[ "$(runner lastChecked)" != "$seen" ]'
check "a limit of the service alone is not" "$(printf %.1f "$(runner memory)")" 2.0
systemctl set-property --runtime pinfold-up.service MemoryMax=infinity
systemctl set-property --runtime system.slice MemoryMax=infinity
within "and gone with it" 40 '[ "$(printf %.1f "$(runner memory)")" = "$memory_of_machine" ]'

section "a sandbox"
a=$(create '{"name":"a"}')
within "a sandbox starts" 120 '[ "$(state "$a")" = started ]'
check "and answers" "$(execute "$a" 'echo hello')" hello
group() { echo "/sys/fs/cgroup/system.slice/docker-$(docker inspect -f '{{.Id}}' "$a").scope"; }
check "its memory is limited" "$(cat "$(group)/memory.max")" $((1 << 30))
check "its CPU is limited" "$(cat "$(group)/cpu.max")" "100000 100000"
check "its processes are limited" "$(cat "$(group)/pids.max")" 4096
check "it is not privileged" "$(docker inspect -f '{{.HostConfig.Privileged}}' "$a")" false
check "its hardware address comes from its own port alone" "$(nft list set bridge pinfold ports | grep -c "$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}' "$a") . \"veth")" 1
check "it cannot read what machine this is (40)" "$(cat /sys/class/dmi/id/sys_vendor) $(execute "$a" 'cat /sys/class/dmi/id/* 2>/dev/null | wc -c')" "QEMU 0"
figures=$(toolbox "$a" system/metrics)
check "it knows its own memory" "$(jq -r .memTotal <<<"$figures")" $((1 << 30))
check "its own CPUs" "$(jq -r .cpuCount <<<"$figures")" 1
check "and its own disk" "$(jq -r .diskTotal <<<"$figures")" $((3 << 30))
check "the host's API is out of its reach" "$(execute "$a" 'nc -w 2 172.20.0.1 3000 </dev/null 2>/dev/null && echo open || echo closed')" closed
check "the daemon survives an OOM in its sandbox (17)" "$(execute "$a" 'tail /dev/zero >/dev/null 2>&1; echo $?')" 137
check "and goes on answering" "$(execute "$a" 'echo here')" here
check "the one that was killed is told why (18)" "$(jq -n '{command: "tail /dev/zero"}' | toolbox "$a" process/execute -X POST -d @- | jq -c '[.oomKilled, .signal]')" '[true,"SIGKILL"]'
check "commands are likelier victims than the daemon" "$(execute "$a" '[ $(cat /proc/self/oom_score_adj) -gt $(cat /proc/1/oom_score_adj) ] && echo yes')" yes
check "and the agent less likely than anything" "$(cat "/proc/$(main_pid)/oom_score_adj")" -900
sandbox "$a" resize POST '{"cpu":2,"memory":2}' >/dev/null
within "memory grows while it runs" 30 '[ "$(cat "$(group)/memory.max")" = $((2 << 30)) ]'
check "and CPUs" "$(cat "$(group)/cpu.max")" "200000 100000"

section "every feature under the unit's confinement (51)"
# settled SNAPSHOT: it is active, or will never be.
settled() { api "http://127.0.0.1:3000/api/snapshots/$1" | jq -e '.state == "active" or (.state | test("error|failed"))'; }
snapshot_state() { api "http://127.0.0.1:3000/api/snapshots/$1" | jq -r '.state + " " + (.errorReason // "")'; }
f=$(jq -n --arg volume "$(api -X POST http://127.0.0.1:3000/api/volumes -d '{"name":"v"}' | jq -r .id)" '{name: "f", volumes: [{volumeId: $volume, mountPath: "/data", subpath: "sub/dir"}]}')
f=$(create "$f")
within "a sandbox with a part of a volume starts" 120 '[ "$(state "$f")" = started ]'
execute "$f" 'echo kept >/data/file; echo mine >/mine' >/dev/null
check "what it writes is in the volume" "$(find /var/lib/pinfold -path '*/sub/dir/file' -not -path '*/volume-mounts/*' -exec cat {} +)" kept
reaches() { execute "$f" "nc -w 3 $1 8080 </dev/null 2>/dev/null | grep -q hello && echo open || echo closed"; }
network() { sandbox "$f" network-settings POST "$1" >/dev/null; }
check "it reaches what is outside" "$(reaches 198.51.100.10)" open
network '{"networkBlockAll":true}'
check "until that is forbidden" "$(reaches 198.51.100.10)" closed
network '{"networkBlockAll":false,"networkAllowList":"198.51.100.20/32"}'
check "a network can be allowed, and no other" "$(reaches 198.51.100.20) $(reaches 198.51.100.10)" "open closed"
network '{"networkAllowList":"","domainAllowList":"*.listed.example"}'
check "and names, which open nothing before they are asked for" "$(reaches 198.51.100.10)" closed
check "names that are not listed are not answered" "$(execute "$f" 'nslookup web.other.example 2>&1 | grep -c 198.51.100.10')" 0
check "those that are open their addresses" "$(execute "$f" 'nslookup web.listed.example 2>&1 | grep -c 198.51.100.10') $(reaches 198.51.100.10)" "1 open"
access=$(sandbox "$f" 'ssh-access?expiresInMinutes=10' POST | jq -r .token)
by_ssh() { ssh -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$access@127.0.0.1" "$1"; }
check "SSH leads into it" "$(by_ssh 'cat /mine')" mine
# It answers when it has read the question, as HTTP wants it.
execute "$f" 'echo '\''while read -r line && [ ${#line} -gt 1 ]; do :; done; printf "HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\npreview"'\'' >/serve; nc -ll -p 8000 -e sh /serve >/dev/null 2>&1 &' >/dev/null
preview=$(sandbox "$f" ports/8000/preview-url)
check "its port can be looked at" "$(curl -s -m 30 -H "x-daytona-preview-token: $(jq -r .token <<<"$preview")" "$(jq -r .url <<<"$preview")")" preview
sandbox "$f" snapshot POST '{"name":"of-f"}' >/dev/null
within "a snapshot is made of it" 180 'settled of-f'
check "and is active" "$(snapshot_state of-f)" "active "
g=$(create '{"name":"g","snapshot":"of-f"}')
within "a sandbox is made of that" 120 '[ "$(execute "$g" "cat /mine")" = mine ]'
api -X POST http://127.0.0.1:3000/api/snapshots -d '{"name":"built","buildInfo":{"dockerfileContent":"FROM pinfold/test:1\nRUN echo built >/built\n"}}' >/dev/null
within "an image is built" 240 'settled built'
check "and is active too" "$(snapshot_state built)" "active "
check "within limits, for which the log says who builds" "$(api http://127.0.0.1:3000/api/snapshots/built/build-logs | grep -c "legacy builder is: .*cgroup driver is systemd")" 1
check "the runner's figures are there for Prometheus" "$(curl -s -m 20 -H "Authorization: Bearer $(cat /var/lib/pinfold/runner-token)" "$(runner apiUrl)/metrics" | grep -c '^pinfold_node_memory_gibibytes [0-9]')" 1
check "the state can be saved" "$(cd /root && pinfold backup /root/saved >/dev/null 2>&1; echo $? && [ -s /root/saved ] && echo saved)" "$(printf '0\nsaved')"
for gone in "$f" "$g"; do sandbox "$gone" '' DELETE >/dev/null; done
within "and they can be deleted" 60 '[ "$(docker ps -aq | wc -l)" = 1 ]'
check "with what was bound for them" "$(grep -c volume-mounts /proc/mounts)" 0

section "its disk (32, 33: quotas, sparse files, recovery)"
check "doctor sees that disks can be limited" "$(pinfold doctor --json | jq -r '.[] | select(.check == "disk quota").verdict')" ok
fills() { execute "$a" "fallocate -l $1 /tmp/f 2>&1 | grep -o 'No space left on device' || echo fits; rm -f /tmp/f"; }
check "what is within the limit fits" "$(fills 2900M)" fits
check "what is over it does not" "$(fills 3100M)" "No space left on device"
check "nor when it is written" "$(execute "$a" 'fallocate -l 2950M /tmp/f; dd if=/dev/zero of=/tmp/g bs=1M count=200 2>&1 | grep -o "No space left on device"; rm -f /tmp/f /tmp/g')" "No space left on device"
# All that a layer can hold: links, special files, modes, owners, times, holes, and what was deleted or replaced from the image.
execute "$a" 'mkdir /d; cd /d; echo one >f; ln f hard; ln -s f soft; mkfifo fifo; truncate -s 200M holes; echo end >>holes; mkdir own; chmod 1777 own; touch -d 2001-02-03 own/old
  chown -R 1234:5678 own; chmod 4755 f; rm /bin/httpd; rm -r /etc/opaque; mkdir /etc/opaque; printf "\303\244 b\n" >"$(printf "\303\244 b")"' >/dev/null
layer() { docker inspect -f '{{.GraphDriver.Data.UpperDir}}' "$a"; }
python3 -c "
import os, sys
os.setxattr(sys.argv[1] + '/d/own/old', 'user.note', b'kept')
os.setxattr(sys.argv[1] + '/d/holes', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))" "$(layer)"
content() { # everything about a tree that a copy could lose
  python3 - "$(layer)" <<'PY'
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1])
first = {}
for base, dirs, files in sorted(os.walk(root)):
    dirs.sort()
    for name in sorted(dirs + files):
        path = os.path.join(base, name)
        s = os.lstat(path)
        where = path[len(root):]
        # The kernel links all deletions of a layer to one; that is not content.
        same = first.setdefault(s.st_ino, where) if s.st_nlink > 1 and not os.path.isdir(path) and not stat.S_ISCHR(s.st_mode) else ""
        regular = os.path.isfile(path) and not os.path.islink(path)
        data = hashlib.sha256(open(path, "rb").read()).hexdigest() if regular else os.readlink(path) if os.path.islink(path) else ""
        attributes = {} if os.path.islink(path) else {n: os.getxattr(path, n) for n in os.listxattr(path) if n not in ("trusted.overlay.origin", "trusted.overlay.impure")}
        print(where, oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev, same, data, attributes, s.st_blocks * 512 < s.st_size if regular else "", s.st_mtime if not os.path.isdir(path) else "")
PY
}
check "it cannot change while it runs" "$(sandbox "$a" resize POST '{"disk":5}' | jq -r .statusCode)" 400
sandbox "$a" stop POST '{}' >/dev/null
within "it stops" 60 '[ "$(state "$a")" = stopped ]'
content >/tmp/before
container() { docker inspect -f '{{.Id}}' "$a"; }
was=$(container)
sandbox "$a" resize POST '{"disk":4}' >/tmp/resized
within "it grows" 60 '[ "$(sandbox "$a" | jq .disk) $(state "$a")" = "4 stopped" ]'
check "in place" "$(container)" "$was"
check "the kernel holds it to that" "$(xfs_quota -x -c 'report -pN' /var/lib/docker | awk '{ print $4 }' | grep -cx $((4 << 20)))" 1
# Without quotactl only a copy is left.
mkdir -p /run/systemd/system/pinfold-up.service.d
printf '[Service]\nSystemCallFilter=~quotactl\n' >/run/systemd/system/pinfold-up.service.d/copy.conf
systemctl daemon-reload
systemctl restart pinfold-up
within "the service comes back" 60 '[ "$(state "$a")" = stopped ] && [ "$(runner state)" = ready ]'
sandbox "$a" resize POST '{"disk":5}' >/tmp/resized
within "it grows by a copy" 60 '[ "$(sandbox "$a" | jq .disk) $(state "$a")" = "5 stopped" ]'
check "in another container" "$([ "$(container)" != "$was" ] && echo yes)" yes
content >/tmp/after
check "and everything in it is as it was" "$(diff /tmp/before /tmp/after)" ""
rm -r /run/systemd/system/pinfold-up.service.d
systemctl daemon-reload
systemctl restart pinfold-up
within "the service comes back again" 60 '[ "$(state "$a")" = stopped ] && [ "$(runner state)" = ready ]'
sandbox "$a" start POST '{}' >/dev/null
within "it starts again" 120 '[ "$(state "$a")" = started ]'
check "with what it had" "$(execute "$a" 'cat /d/f /d/soft; ls /etc/opaque | wc -l; test -e /bin/httpd || echo gone' | xargs)" "one one 0 gone"
check "and more room" "$(fills 4800M)" fits
check "to a limit" "$(fills 5200M)" "No space left on device"
url=$(runner apiUrl)
token=$(cat /var/lib/pinfold/runner-token)
recover() { curl -sS -m 120 -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "$url/sandboxes/$a/recover" -d '{"userId":"u","osUser":"root","cpuQuota":1,"memoryQuota":1,"storageQuota":5,"errorReason":"no space left on device"}' -o /tmp/recovered -w '%{http_code}'; }
check "a sandbox whose disk is full is given a little more" "$(recover)" 200
within "it is stopped then" 60 '[ "$(state "$a")" = stopped ]'
sandbox "$a" start POST '{}' >/dev/null
within "it starts after that" 120 '[ "$(execute "$a" "cat /d/f")" = one ]'
check "with a twentieth more" "$(fills 5200M)" fits
check "and no further" "$(fills 5400M)" "No space left on device"
check "nothing is left of what it was before" "$(docker ps -aq | wc -l)" 1

section "faults (22: frozen until a watchdog struck; 28: the runner starts before the engine)"
execute "$a" 'setsid sleep 100000 >/dev/null 2>&1 & echo $! >/tmp/pid' >/dev/null
goes_on() { check "$1, and what runs in the sandbox goes on" "$(execute "$a" 'kill -0 "$(cat /tmp/pid)" && echo on') $(started "$a")" "on $born"; }
born=$(started "$a")
systemctl restart pinfold-up
check "a restart is in order" "$(shown pinfold-up ActiveState Result NRestarts)" "active success 0"
within "after a restart the sandbox answers" 60 '[ "$(execute "$a" "echo hi")" = hi ]'
goes_on "the service was restarted"
before=$(main_pid)
kill -9 "$before"
within "killed, it is started again" 60 '[ "$(main_pid)" -gt 0 ] && [ "$(main_pid)" != "$before" ] && [ "$(systemctl is-active pinfold-up)" = active ] && answers'
within "and the sandbox answers" 60 '[ "$(execute "$a" "echo hi")" = hi ]'
goes_on "the service was killed"
mkdir -p /run/systemd/system/pinfold-up.service.d
printf '[Service]\nWatchdogSec=8\nTimeoutAbortSec=2\n' >/run/systemd/system/pinfold-up.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart pinfold-up
before=$(main_pid)
kill -STOP "$before"
within "hung, the watchdog ends it" 60 '[ "$(main_pid)" -gt 0 ] && [ "$(main_pid)" != "$before" ] && [ "$(systemctl is-active pinfold-up)" = active ] && answers'
check "and says why" "$(journalctl -u pinfold-up | grep -c 'Watchdog timeout')" 1
goes_on "the watchdog struck"
rm -r /run/systemd/system/pinfold-up.service.d
systemctl daemon-reload
systemctl restart docker
within "an engine restart is survived" 120 '[ "$(systemctl is-active pinfold-up)" = active ] && [ "$(state "$a")" = stopped ]'
sandbox "$a" start POST '{}' >/dev/null
within "and the sandbox starts again" 120 '[ "$(state "$a")" = started ]'
systemctl mask --runtime --now docker.socket docker 2>/dev/null
kill -9 "$(main_pid)"
# It waits half a minute for the engine before it ends and is started anew.
within "without an engine it tries again" 120 '[ "$(systemctl show -P NRestarts pinfold-up)" -ge 2 ]'
check "and is not given up" "$(shown pinfold-up ActiveState StartLimitIntervalUSec)" "activating 0"
systemctl unmask --runtime docker.socket docker 2>/dev/null
systemctl start docker
within "until there is one" 120 '[ "$(systemctl is-active pinfold-up)" = active ] && answers'
within "and the sandbox is known to be stopped" 60 '[ "$(state "$a")" = stopped ]'

section "upgrade with a sandbox running"
sandbox "$a" start POST '{}' >/dev/null
within "a sandbox runs" 120 '[ "$(state "$a")" = started ]'
execute "$a" 'setsid sleep 100000 >/dev/null 2>&1 & echo $! >/tmp/pid' >/dev/null
born=$(started "$a")
before=$(main_pid)
echo '# mine' >>/etc/pinfold/pinfold.env
apt install /root/newer.deb
check "a newer package installs" "$? $(dpkg-query -W -f '${Status}' pinfold)" "0 install ok installed"
within "the service was restarted" 60 '[ "$(main_pid)" != "$before" ] && [ "$(systemctl is-active pinfold-up)" = active ] && answers'
check "the settings are as they were" "$(tail -1 /etc/pinfold/pinfold.env)" "# mine"
within "the sandbox answers" 60 '[ "$(execute "$a" "echo still")" = still ]'
goes_on "the package was upgraded"
apt remove pinfold
check "the package can be removed" $? 0
check "then nothing of it runs" "$(systemctl is-active pinfold-up; pgrep -cx pinfold)" "$(printf 'inactive\n0')"
check "but the sandbox, behind its rules" "$(started "$a") $(nft list tables | grep -c 'inet pinfold')" "$born 1"
apt install /root/newer.deb
systemctl start pinfold-up
within "installed again, it finds the sandbox" 60 '[ "$(execute "$a" "echo still")" = still ]'

section "another runtime (CONTAINER_RUNTIME=crun)"
sandbox "$a" stop POST '{}' >/dev/null
within "what runs under the engine's own runtime stops" 60 '[ "$(state "$a")" = stopped ]'
echo CONTAINER_RUNTIME=crun >>/etc/pinfold/pinfold.env
systemctl restart pinfold-up
within "the service takes another runtime" 60 '[ "$(runner state)" = ready ]'
r=$(create '{"name":"r"}')
within "a sandbox starts under it" 120 '[ "$(state "$r")" = started ]'
check "really under it" "$(docker inspect -f '{{.HostConfig.Runtime}}' "$r")" crun
check "and answers" "$(execute "$r" 'echo hello')" hello
# In a group of its own below the scope.
slice=/sys/fs/cgroup$(cut -d: -f3 "/proc/$(docker inspect -f '{{.State.Pid}}' "$r")/cgroup")
check "its limits are kept" "$(cat "$slice/memory.max" "$slice/cpu.max" "$slice/pids.max" | xargs)" "$((1 << 30)) 100000 100000 4096"
check "an OOM in it is told, and its daemon survives" "$(jq -n '{command: "tail /dev/zero"}' | toolbox "$r" process/execute -X POST -d @- | jq -c '[.oomKilled, .signal]') $(execute "$r" 'echo here')" '[true,"SIGKILL"] here'
check "its disk is limited" "$(execute "$r" "fallocate -l 3100M /f 2>&1 | grep -o 'No space left on device'; rm -f /f; echo kept >/kept")" "No space left on device"
walls() { execute "$1" "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/1/status; cat /sys/class/dmi/id/* /proc/kcore 2>/dev/null | head -c 9 | wc -c; nc -w 2 172.20.0.1 3000 </dev/null 2>/dev/null && echo open || echo closed"; }
under_crun=$(walls "$r")
sandbox "$r" stop POST '{}' >/dev/null
within "it stops" 60 '[ "$(state "$r")" = stopped ]'
sandbox "$r" start POST '{}' >/dev/null
within "it starts again with what it had" 120 '[ "$(execute "$r" "cat /kept")" = kept ]'
docker kill "$r" >/dev/null
within "its end is told" 60 '[ "$(state "$r")" = stopped ]'
sandbox "$r" '' DELETE >/dev/null
within "deleted, it leaves no container" 60 '! docker inspect "$r"'
sed -i 's/^CONTAINER_RUNTIME=.*/CONTAINER_RUNTIME=kata/' /etc/pinfold/pinfold.env
systemctl restart pinfold-up
within "a runtime that is not there takes the runner out of service" 60 '[ "$(runner state)" = unresponsive ]'
check "and it says why" "$(runner 'serviceHealth[] | select(.healthy | not) | .errorReason' | grep -c 'no "kata"')" 1
sed -i '/^CONTAINER_RUNTIME=/d' /etc/pinfold/pinfold.env
systemctl restart pinfold-up
within "and without it the runner is back" 60 '[ "$(runner state)" = ready ]'
sandbox "$a" start POST '{}' >/dev/null
within "the first sandbox starts again" 120 '[ "$(state "$a")" = started ]'
check "and crun gives no more than runc does" "$under_crun" "$(walls "$a")"

section "the end"
b=$(create '{"name":"b"}')
within "another sandbox starts" 120 '[ "$(state "$b")" = started ]'
sandbox "$b" '' DELETE >/dev/null
within "a deleted sandbox leaves no container" 60 '! docker inspect "$b"'
check "nor anything that counts as its disk" "$(xfs_quota -x -c 'report -pN' /var/lib/docker | awk '$2 > 0 && $4 > 0' | wc -l)" "$(find /var/lib/docker/overlay2 -mindepth 1 -maxdepth 1 -name '*-init' | wc -l | awk '{ print 2 * $1 }')"
section "volumes in buckets (50: FUSE killed by a restart of the runner)"
systemctl stop pinfold-up
bucket=$(cat /proc/sys/kernel/random/uuid)
v=$(cat /proc/sys/kernel/random/uuid)
mkdir -p /run/systemd/system/pinfold.service.d
cat >/run/systemd/system/pinfold.service.d/buckets.conf <<'CONF'
[Service]
Environment=DAYTONA_API_URL=http://127.0.0.1:9/api DAYTONA_RUNNER_TOKEN=vm-token API_VERSION=0 API_PORT=8080
Environment=AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=vm-access AWS_SECRET_ACCESS_KEY=vm-secret
CONF
systemctl daemon-reload
systemctl start pinfold
node() { curl -sS -m 120 -H 'Authorization: Bearer vm-token' -H 'Content-Type: application/json' "http://127.0.0.1:8080/$1" "${@:2}"; }
runs() { jq -n --arg c "$1" '{command: $c}' | node "sandboxes/$v/toolbox/process/execute" -X POST -d @- | jq -r '.result // .message'; }
object() { curl -s -m 20 --aws-sigv4 aws:amz:us-east-1:s3 --user vm-access:vm-secret "http://127.0.0.1:9000/daytona-volume-$bucket/$1"; }
client() { pgrep -f "^[^ ]*s3fs daytona-volume-$bucket"; }
within "an agent with an object store starts" 60 'node "" | grep -q ok'
curl -s -m 20 -X PUT "http://127.0.0.1:9000/daytona-volume-$bucket"
jq -n --arg id "$v" --arg volume "$bucket" '{id: $id, userId: "u", snapshot: "pinfold/test:1", osUser: "root", cpuQuota: 1, memoryQuota: 1, storageQuota: 1,
  volumes: [{volumeId: $volume, mountPath: "/data"}]}' | node sandboxes -X POST -d @- >/tmp/created
check "a sandbox with a volume starts" "$(docker inspect -f '{{.State.Status}}' "$v" || cat /tmp/created)" running
runs 'echo kept >/data/first' >/dev/null
check "what it writes is in the bucket" "$(object first)" kept
served=$(client)
check "the mount client is in a scope of its own" "$(grep -c 'system.slice/run-.*\.scope$' "/proc/$served/cgroup")" 1
check "no key is in its arguments or anybody's" "$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -c 'vm-secre[t]')" 0
check "the file with the key is root's alone" "$(stat -c %a /mnt/.pinfold-s3fs)" 600
# on NAME: the same client serves, and the sandbox reads and writes.
on() {
  check "$1, and the same client serves the volume" "$(client)" "$served"
  check "$1, and the sandbox has its files" "$(docker exec "$v" sh -c 'cat /data/first && echo more >/data/second && cat /data/second' | xargs)" "kept more"
}
systemctl stop pinfold
on "the agent is stopped"
systemctl start pinfold
within "started again it answers" 60 '[ "$(runs "cat /data/first")" = kept ]'
systemctl restart pinfold
on "the agent is restarted"
before=$(main_pid_of pinfold)
kill -9 "$before"
within "killed, it comes back" 60 '[ "$(main_pid_of pinfold)" -gt 0 ] && [ "$(main_pid_of pinfold)" != "$before" ] && node "" | grep -q ok'
on "the agent is killed"
born=$(started "$v")
for time in once twice; do
  kill -9 "$served"
  within "a sandbox whose mount client died $time has its volume again while it runs" 60 '[ "$(docker exec "$v" sh -c "cat /data/first && echo healed >/data/third && cat /data/third" | xargs)" = "kept healed" ]'
  check "from another client, in a scope of its own" "$([ "$(client)" != "$served" ] && grep -c 'system.slice/run-.*\.scope$' "/proc/$(client)/cgroup")" 1
  check "and was not started for that" "$(started "$v")" "$born"
  served=$(client)
done
check "the dead mount and the live one are all that it has there" "$(docker exec "$v" grep -c ' /data ' /proc/self/mountinfo)" 2
kill -9 "$served"
node "sandboxes/$v/stop" -X POST -d '{}' >/dev/null
within "a sandbox whose mount died can stop" 60 '[ "$(docker inspect -f "{{.State.Status}}" "$v")" = exited ]'
node "sandboxes/$v/start" -X POST -d '{}' >/tmp/created
check "and has its volume again when it starts" "$(runs 'cat /data/first')" kept
check "from another client" "$([ "$(client)" -gt 0 ] && [ "$(client)" != "$served" ] && echo yes)" yes
systemctl stop pinfold

section "BuildKit on cgroup v2, below the engine's cgroup and below another"
cat >/run/systemd/system/pinfold.service.d/buckets.conf <<'CONF'
[Service]
Environment=DAYTONA_API_URL=http://127.0.0.1:9/api DAYTONA_RUNNER_TOKEN=vm-token API_VERSION=0 API_PORT=8080 BUILD_CPU_CORES=1 BUILD_MEMORY_GB=1
CONF
systemctl daemon-reload
built() { # built NAME STEP: the log of an image with that step, when its build has ended
  jq -n --arg s "vm-$1:1" --arg d "FROM pinfold/test:1
RUN $2" '{snapshot: $s, dockerfile: $d, organizationId: "o"}' | node snapshots/build -X POST -d @- >/dev/null
  node "snapshots/logs?snapshotRef=vm-$1:1&follow=true"
}
for parent in docker mine/all; do
  jq -n --arg parent "/$parent" '{runtimes: {crun: {path: "/usr/bin/crun"}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]} + if $parent == "/docker" then {} else {"cgroup-parent": $parent} end' >/etc/docker/daemon.json
  systemctl restart docker
  systemctl restart pinfold
  within "the agent is up beside an engine whose cgroups are below $parent" 120 'node "" | grep -q ok'
  name=${parent%%/*}
  # Two hungry processes for as long as half the seconds of a core that the step may use. Named, so that the second is not the first's from the cache.
  log=$(built "$name" ": $name; cat /proc/self/cgroup; for n in 1 2; do timeout 6 sh -c 'while :; do :; done' & done; wait")
  check "BuildKit builds there" "$(grep -c 'legacy builder' <<<"$log") $(docker image inspect -f '{{len .RootFS.Layers}}' "vm-$name:1" >/dev/null 2>&1 && echo built)" "0 built"
  check "its steps are below $parent/buildkit" "$(grep -c "0::/$parent/buildkit/" <<<"$log")" 1
  check "which is bounded" "$(cat "/sys/fs/cgroup/$parent/buildkit/memory.max" "/sys/fs/cgroup/$parent/buildkit/cpu.max" | xargs)" "$((1 << 30)) 100000 100000"
  check "they were held back when they wanted more than a core" "$(awk '$1 == "nr_throttled" { print ($2 > 0) }' "/sys/fs/cgroup/$parent/buildkit/cpu.stat")" 1
  check "and one that eats too much is killed" "$(built "$name-hungry" 'tail /dev/zero' | grep -q 'exit code: 137' && echo yes)" yes
  killed=$(main_pid_of pinfold)
  jq -n --arg d "FROM pinfold/test:1
RUN exec sleep 86399" '{snapshot: "vm-endless:1", dockerfile: $d, organizationId: "o"}' | node snapshots/build -X POST -d @- >/dev/null
  within "a step runs" 60 'pgrep -fx "sleep 86399"'
  kill -9 "$killed"
  within "and ends when the runner is killed" 60 '! pgrep -fx "sleep 86399"'
  within "which is started again" 60 '[ "$(main_pid_of pinfold)" -gt 0 ] && [ "$(main_pid_of pinfold)" != "$killed" ] && node "" | grep -q ok'
done
docker image rm vm-docker:1 vm-mine:1 >/dev/null
systemctl stop pinfold
rm -r /run/systemd/system/pinfold.service.d
systemctl daemon-reload

section "purge"
apt purge pinfold
check "the package purges" $? 0
check "buckets are unmounted" "$(grep -c daytona-volume /proc/mounts; client)" 0
check "but never emptied" "$(object first)" kept
check "with its sandboxes" "$(docker ps -aq | wc -l)" 0
check "its networks" "$(docker network ls --format '{{.Name}}' | grep -c -e runner-bridge -e runner-shared -e daytona-link-)" 0
check "its rules" "$(nft list tables | grep -c pinfold)" 0
check "its mounts" "$(grep -c pinfold /proc/mounts)" 0
check "and its files" "$(find / -xdev -name '*pinfold*' -not -path '/proc/*' -not -path '/root/*' -not -path '/var/log/apt/*' -not -path '/var/lib/docker/*' 2>/dev/null)" ""
check "systemd is content" "$(systemctl list-units --failed --no-legend | wc -l)" 0

section end
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] || { journalctl -u pinfold -u pinfold-up --no-pager -n 60; tail -20 /tmp/apt.log; exit 1; }
