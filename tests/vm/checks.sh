#!/usr/bin/env bash
# Runs in the guest. One line a check; ends with "N passed, N failed", and non-zero when one failed.
set -u
passed=0
failed=0
check() { # check NAME ACTUAL EXPECTED
  if [ "$2" = "$3" ]; then passed=$((passed + 1)); echo "ok - $1"; else failed=$((failed + 1)); echo "not ok - $1: got '$2', expected '$3'"; fi
}
# await SECONDS COMMAND: until it succeeds.
await() { local end=$((SECONDS + $1)); shift; until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 1; done; }

api() { curl -sS -m 120 -H "Authorization: Bearer $key" -H 'Content-Type: application/json' "$@"; }
create() { api -X POST http://127.0.0.1:3000/api/sandbox -d "$1" | jq -r '.id // .message'; }
state() { api "http://127.0.0.1:3000/api/sandbox/$1" | jq -r .state; }
execute() { # execute ID COMMAND: its output
  jq -n --arg c "$2" '{command: $c}' | api -X POST "http://127.0.0.1:3000/toolbox/$1/process/execute" -d @- | jq -r '.result // .message'
}

check "PID 1 is systemd" "$(cat /proc/1/comm)" systemd
check "cgroup v2 alone" "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
docker load -i /root/busybox.tar.gz >/dev/null
docker tag pinfold/busybox:latest pinfold/test:1

# --- install ---
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq /root/pinfold.deb >/tmp/apt.log 2>&1
check "the package installs" $? 0
check "it does not start unconfigured" "$(systemctl is-active pinfold pinfold-up | sort -u)" inactive
for unit in pinfold pinfold-up; do check "$unit.service verifies" "$(systemd-analyze verify /lib/systemd/system/$unit.service 2>&1 | grep -v 'Cannot find unit')" ""; done
check "the settings are root's alone" "$(stat -c %a /etc/pinfold/pinfold.env)" 600
check "a runner without settings ends with 2" "$(env -i pinfold run >/dev/null 2>&1; echo $?)" 2

# --- in service ---
echo 'PINFOLD_SNAPSHOT_IMAGE=pinfold/test:1' >>/etc/pinfold/pinfold.env
systemctl enable --now pinfold-up >/tmp/start.log 2>&1
check "the service starts and says it is ready" "$(systemctl is-active pinfold-up)" active
await 60 curl -sf http://127.0.0.1:3000/api/health
key=$(cat /var/lib/pinfold/api-key)
runner() { api http://127.0.0.1:3000/api/runners | jq -r ".[0].$1"; }
await 60 test ready = "$(runner state)"
check "its runner is ready" "$(runner state)" ready
check "CPUs are this machine's" "$(runner cpu)" "$(nproc)"
memory=$(awk '/MemTotal/ { printf "%.1f", $2 / 1048576 }' /proc/meminfo)
check "memory is this machine's" "$(runner memoryGiB | xargs printf %.1f)" "$memory"

a=$(create '{"name":"a"}')
await 120 test "$(state "$a")" = started
check "a sandbox starts" "$(state "$a")" started
check "and answers" "$(execute "$a" 'echo hello')" hello
group=$(docker inspect -f '{{.Id}}' "$a")
group=/sys/fs/cgroup/system.slice/docker-$group.scope
check "its memory is limited" "$(cat "$group/memory.max")" $((1 << 30))
check "its CPU is limited" "$(cat "$group/cpu.max")" "100000 100000"
check "its processes are limited" "$([ "$(cat "$group/pids.max")" -gt 0 ] && echo yes)" yes
check "it is not privileged" "$(docker inspect -f '{{.HostConfig.Privileged}}' "$a")" false
check "its disk is limited" "$(docker inspect -f '{{.HostConfig.StorageOpt}}' "$a")" "map[size:3G]"
check "and the limit holds" "$(execute "$a" 'dd if=/dev/zero of=/tmp/f bs=1M count=4000 2>&1 | grep -o "No space left on device"; rm -f /tmp/f')" "No space left on device"
check "the daemon survives an OOM in its sandbox" "$(execute "$a" 'tail /dev/zero >/dev/null 2>&1; echo $?')" 137
check "and goes on answering" "$(execute "$a" 'echo here')" here
check "the host's API is out of its reach" "$(execute "$a" 'nc -w 2 172.20.0.1 3000 </dev/null && echo open || echo closed')" closed

# --- faults ---
before=$(systemctl show -P MainPID pinfold-up)
kill -9 "$before"
await 60 curl -sf http://127.0.0.1:3000/api/health
check "killed, it comes back" "$([ "$(systemctl show -P MainPID pinfold-up)" != "$before" ] && systemctl is-active pinfold-up)" active
check "the sandbox ran on" "$(await 60 test "$(state "$a")" = started; execute "$a" 'echo again')" again
systemctl restart docker
await 120 docker info
check "an engine restart is survived" "$(systemctl is-active pinfold-up)" active

# --- upgrade with sandboxes running ---
api -X POST "http://127.0.0.1:3000/api/sandbox/$a/start" >/dev/null
await 120 test "$(state "$a")" = started
born=$(docker inspect -f '{{.State.StartedAt}}' "$a")
before=$(systemctl show -P MainPID pinfold-up)
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --reinstall /root/pinfold.deb >>/tmp/apt.log 2>&1
await 60 curl -sf http://127.0.0.1:3000/api/health
check "an upgrade restarts the service" "$([ "$(systemctl show -P MainPID pinfold-up)" != "$before" ] && systemctl is-active pinfold-up)" active
check "and not the sandbox" "$(docker inspect -f '{{.State.StartedAt}}' "$a")" "$born"
check "which still answers" "$(execute "$a" 'echo still')" still

# --- the end ---
api -X DELETE "http://127.0.0.1:3000/api/sandbox/$a" >/dev/null
await 60 sh -c "! docker inspect $a"
check "a deleted sandbox leaves no container" "$(docker ps -aq | wc -l)" 0
DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq pinfold >/tmp/purge.log 2>&1
check "the package purges" $? 0
check "nothing is left of it" "$(ls -d /etc/pinfold /var/lib/pinfold /usr/bin/pinfold 2>/dev/null)" ""
check "nor of its rules" "$(nft list tables | grep -c pinfold)" 0

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
