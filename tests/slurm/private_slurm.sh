#!/bin/bash
# A throw-away Slurm on this machine: nodes n1 and n2, each of which claims 64 CPUs, 512 GB and 8 GPUs.
#   private_slurm.sh start DIR    then: export SLURM_CONF=DIR/slurm.conf
#   private_slurm.sh node DIR n2  starts the daemon of a node that was killed again
#   private_slurm.sh stop DIR     cancels its jobs and ends the daemons started here
# No root, systemd or database; nothing outside DIR (a short path: sockets live in it).
# Debian and Ubuntu: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail
PATH=$PATH:/usr/sbin
command=${1:?start, node or stop}
mkdir -p "${2:?a folder}"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf

wait_for() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

nodes_are_idle() { [[ $(sinfo --noheader --partition=gpu --states=idle --format=%D) == 2 ]]; }
queue_is_empty() { [[ -z $(squeue --noheader) ]]; }
is_gone() { ! kill -0 "$1"; } # PID

free_ports() { # COUNT
  python3 - "$1" <<'PYTHON'
import socket
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[s.getsockname()[1] for s in sockets])
PYTHON
}

write_configuration() {
  local host user ports
  host=$(hostname -s)
  user=$(id -un)
  read -r -a ports <<<"$(free_ports 3)"
  for i in {0..7}; do ln -sfn /dev/null "$dir/gpu$i"; done
  echo "NodeName=n[1-2] Name=gpu Type=a40 File=$dir/gpu[0-7]" >"$dir/gres.conf"
  # No cgroups (proctrack, task); short credentials let a requeued job restart in seconds; the
  # NoInAddrAny pair keeps the daemons on 127.0.0.1; the fake size needs config_overrides. Jobs of
  # several such Slurms must not have the same numbers: MASTER_PORT comes from them.
  cat >"$SLURM_CONF" <<CONF
ClusterName=private
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=${ports[0]}
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=requeue_delay=0,batch_sched_delay=1,sched_interval=1
MpiDefault=none
ReturnToService=2
FirstJobId=$((RANDOM % 9000 + 1000))
KillWait=60
SlurmdTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
MailProg=/bin/true
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=64 RealMemory=512000 Gres=gpu:a40:8
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=64 RealMemory=512000 Gres=gpu:a40:8
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE GraceTime=60
PartitionName=urgent Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF
CONF
}

end_daemon() { # PIDFILE
  [[ -s $1 ]] || return 0
  local pid
  pid=$(<"$1")
  kill -TERM "$pid" 2>/dev/null || return 0
  wait_for 10 is_gone "$pid" || kill -KILL "$pid"
}

case $command in
  start)
    umask 022
    mkdir -p "$dir"/{state,spool.n1,spool.n2}
    write_configuration
    (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    munged --force --num-threads=2 --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
      --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    slurmctld -c
    wait_for 20 scontrol ping
    for node in n1 n2; do slurmd -N "$node"; done
    wait_for 60 nodes_are_idle || {
      tail -n 20 "$dir"/*.log >&2
      exit 1
    }
    ;;
  node) slurmd -N "$3" ;;
  stop)
    scancel --user="$(id -un)" || true
    wait_for 30 queue_is_empty || true
    for daemon in slurmd.n1 slurmd.n2 slurmctld munged; do end_daemon "$dir/$daemon.pid"; done
    ;;
  *)
    echo "error: '$command' is none of start, node, stop" >&2
    exit 2
    ;;
esac
