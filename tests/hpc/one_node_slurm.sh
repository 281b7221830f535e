#!/usr/bin/env bash
# A Slurm of one node for tests, on this machine's loopback, with all its files in FOLDER.
# usage: one_node_slurm.sh up FOLDER       then: export SLURM_CONF=FOLDER/slurm.conf
#        one_node_slurm.sh down FOLDER
set -euo pipefail
action=${1:?up or down}
folder=$(mkdir -p "${2:?folder}" && realpath "$2")
export SLURM_CONF=$folder/slurm.conf
node=$(hostname -s)

stop() { # stop PIDFILE
  [ -s "$1" ] || return 0
  local process
  process=$(cat "$1")
  kill "$process" 2> /dev/null || return 0
  for _ in $(seq 50); do kill -0 "$process" 2> /dev/null || return 0; sleep 0.2; done
  kill -KILL "$process" 2> /dev/null || true
}

if [ "$action" = down ]; then
  scancel --quiet --user "$(id -un)" 2> /dev/null || true
  for daemon in slurmd slurmctld munged; do stop "$folder/$daemon.pid"; done
  exit 0
fi

mkdir -p "$folder"/{state,spool,munge}
chmod 700 "$folder/munge"
(umask 077; head -c 256 /dev/urandom > "$folder/munge/key")
# nproc would take OMP_NUM_THREADS for the number of CPUs.
cpus=$(env --unset=OMP_NUM_THREADS --unset=OMP_THREAD_LIMIT nproc)
megabytes=$(awk '/^MemTotal/ {print int($2 * 0.9 / 1024)}' /proc/meminfo)
cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/ended.txt
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$megabytes State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
chmod 711 "$folder/munge"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
  case "$(sinfo --noheader --format %T 2> /dev/null || true)" in
    idle* | mixed* | allocated*) exit 0 ;;
  esac
  sleep 0.5
done
tail -n 20 "$folder"/*.log >&2
exit 1
