# shellcheck shell=bash
# What the jobs in this folder share. They run in the project's folder and source it from there:
# Slurm runs a copy of the job's script, far from its neighbours.

refuse() { # MESSAGE
  echo "error: $1" >&2
  exit 2
}

find_environment() { # sets `venv`
  venv=${SPACESCALE_VENV:-.venv}
  [[ -f $venv/bin/activate ]] ||
    refuse "no virtual environment at $venv; make one or set SPACESCALE_VENV"
}

enter_environment() {
  find_environment
  # shellcheck source=/dev/null
  . "$venv/bin/activate"
}

newest_checkpoint() { # RUN ; prints its name, or nothing
  [[ -d $1/checkpoints ]] || return 0
  find "$1/checkpoints" -maxdepth 1 | sed -n 's|.*/\(step-[0-9]*\)$|\1|p' | sort -V | tail -n 1
}

# ---- Pretraining ---------------------------------------------------------------------------------

# Run pretrain.py on every task of the job, and have the job go on later if that is of use.
pretrain() { # SCRIPT DEFAULT... -- ARGUMENT...
  script=$1 defaults=()
  shift
  while [[ $1 != -- ]]; do defaults+=("$1") && shift; done
  shift
  [[ -n ${SLURM_JOB_ID:-} ]] || refuse "submit it: sbatch $script …"
  (($#)) || set -- --preset space_demo --output "runs/$SLURM_JOB_NAME-$SLURM_JOB_ID"
  arguments=("$@")
  output=$(output_folder "$@")
  [[ -n $output ]] || refuse "give --output DIR too"
  read_settings
  enter_environment
  tasks_per_node=${SLURM_TASKS_PER_NODE%%[!0-9]*} # of "8(x2)"
  submit_follower # before the variables of this job are set
  set_variables

  # Rank 0 leaves this marker when the ranks were asked to stop for a while (time limit,
  # preemption) and have saved. An exit status could not say it: --kill-on-bad-exit would end the
  # ranks that are still saving.
  marker=$output/REQUEUE
  rm -f "$marker"
  before=$(newest_checkpoint "$output")
  # Later starts go on from the run's newest checkpoint, not from the first one's --resume PATH.
  [[ -z $before ]] || ! has_begun || arguments+=(--resume auto)

  ending=''
  run_ranks
  decide
}

output_folder() { # ARGUMENT... ; prints the value of the last --output
  local previous='' found='' argument
  for argument in "$@"; do
    [[ $previous != --output ]] || found=$argument
    [[ $argument != --output=* ]] || found=${argument#*=}
    previous=$argument
  done
  echo "$found"
}

read_settings() {
  chain=${SPACESCALE_CHAIN:-}
  max_retries=${SPACESCALE_MAX_RETRIES:-3}
  retry_pause_s=${SPACESCALE_RETRY_PAUSE_S:-60}
  read -r -a srun_options <<<"${SPACESCALE_SRUN:-}"
  # The margin that the script asks for; one given to sbatch cannot be seen from here.
  local margin
  margin=$(sed -n 's/^#SBATCH --signal=B:USR1@\([0-9]*\).*/\1/p' "$0")
  export SPACESCALE_GRACE_S=${SPACESCALE_GRACE_S:-$margin}
  local name
  for name in SPACESCALE_CHAIN SPACESCALE_MAX_RETRIES SPACESCALE_RETRY_PAUSE_S SPACESCALE_GRACE_S; do
    [[ ${!name:-0} =~ ^[0-9]+$ ]] || refuse "$name=${!name} must be a whole number"
  done
  first_job=${SPACESCALE_FIRST_JOB:-$SLURM_JOB_ID} # of the chain
}

# Whether the run has begun in this job or an earlier one of its chain. One that was stopped before
# has not gone back yet to the checkpoint of its own that --resume may name.
has_begun() {
  local job
  while read -r job; do
    ((job < first_job)) || return 0
  done < <(sed -n 's/.*"event":"start".*"job":"\([0-9]*\)".*/\1/p' "$output/history.jsonl" 2>/dev/null)
  return 1
}

set_variables() {
  # The address Slurm itself uses for the first node: its name need not resolve.
  local first_node address
  first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  address=$(scontrol show node "$first_node" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  export MASTER_ADDR=${MASTER_ADDR:-$address}
  export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
  # Unset where nobody asked for a number, as with whole nodes; srun would then give each task one.
  cpus=$((SLURM_CPUS_ON_NODE > tasks_per_node ? SLURM_CPUS_ON_NODE / tasks_per_node : 1))
  cpus=${SLURM_CPUS_PER_TASK:-$cpus}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
  export PYTHONUNBUFFERED=1
}

run_ranks() { # sets `status`
  # Python installs its handlers a moment after it starts; until then both signals are ignored.
  # shellcheck disable=SC2016  # expanded by each rank
  srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" "${srun_options[@]}" bash -c '
    trap "" USR1 TERM
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python -m spacescale.pretrain "$@"' rank "${defaults[@]}" "${arguments[@]}" &
  local srun_pid=$!
  # shellcheck disable=SC2064  # the number of now
  trap "kill -USR1 $srun_pid || true" USR1 # before the time limit; only this script is told
  trap note_end TERM # of the whole job; the ranks get a TERM of their own
  while kill -0 "$srun_pid" 2>/dev/null; do wait "$srun_pid" || true; done # a trap ends a wait early
  status=0
  wait "$srun_pid" || status=$?
}

note_end() { # sets `ending` to Slurm's reason: None after scancel, TimeLimit, NodeDown …
  ending=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%r || echo unknown)
  # At once: scancel's KILL comes next.
  [[ $ending != None ]] || cancel_follower
}

decide() { # whether the job goes on later
  if [[ $ending == None ]]; then
    finish "cancelled"
  elif [[ -n $ending ]]; then
    echo "job $SLURM_JOB_ID ended by Slurm: $ending" # which starts it again after the loss of a node
    exit "$status"
  elif [[ $status == 0 && -e $marker ]]; then
    rm -f "$marker" "$output/slurm-retries"
    go_on "saved and stopped" ""
  elif [[ $status == 0 ]]; then
    rm -f "$output/slurm-retries"
    finish "ended"
  elif grep -qs '^needs a person' "$output/FAILED"; then
    finish "failed by an error that a person must cure"
  elif [[ $(newest_checkpoint "$output") == "$before" ]]; then
    finish "failed, and saved nothing since its last start: not tried again"
  else
    retry
  fi
}

# A crash (a rank raised, died or hung, a node was lost) after a checkpoint was saved. How many there
# were in a row is kept in the run folder: this script starts anew with the job.
retry() {
  local job='' count=0
  [[ ! -e $output/slurm-retries ]] || read -r job count <"$output/slurm-retries"
  [[ $job == "$first_job" ]] || count=0
  ((++count <= max_retries)) ||
    finish "failed $count times in a row: not tried again (SPACESCALE_MAX_RETRIES=$max_retries)"
  echo "$first_job $count" >"$output/slurm-retries"
  go_on "failed, retry $count of $max_retries" "$((retry_pause_s * 4 ** (count - 1)))"
}

go_on() { # REASON SECONDS ; the second may be empty
  [[ -z $chain ]] || hand_over "$@"
  echo "job $SLURM_JOB_ID $1; it goes back into the queue${2:+, for $2 s at least}"
  trap '' TERM # requeueing ends this script and what it calls
  scontrol requeue "$SLURM_JOB_ID" || {
    echo "error: this job cannot be requeued: submit it again, next time with SPACESCALE_CHAIN" >&2
    exit 1
  }
  [[ -z $2 ]] || scontrol update JobId="$SLURM_JOB_ID" StartTime="now+$2"
  exit "$status"
}

finish() { # REASON
  echo "job $SLURM_JOB_ID $1"
  cancel_follower
  exit "$status"
}

# ---- Chains: where jobs are not requeued, the next one waits in the queue from the start ---------

follower() { # prints the job that waits for the end of this one, if there is one
  [[ -n $chain ]] || return 0
  squeue --noheader --user="$(id -un)" --format='%i %E' |
    sed -n "s/^\([0-9]*\) afterany:$SLURM_JOB_ID\b.*/\1/p"
}

cancel_follower() {
  local next
  next=$(follower)
  [[ -z $next ]] || scancel "$next"
}

submit_follower() { # with the options that sbatch has no variables for
  ((${chain:-0} > 0)) && [[ -z $(follower) ]] || return 0
  env -u SLURM_RESTART_COUNT SPACESCALE_CHAIN=$((chain - 1)) SPACESCALE_FIRST_JOB="$first_job" \
    sbatch --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node="$tasks_per_node" \
    --dependency="afterany:$SLURM_JOB_ID" "$script" "${arguments[@]}"
}

hand_over() { # REASON SECONDS
  local next
  next=$(follower)
  if [[ -z $next ]]; then
    echo "job $SLURM_JOB_ID $1; no job of the chain is left: submit it again"
  else
    echo "job $SLURM_JOB_ID $1; job $next goes on"
    [[ -z $2 ]] || scontrol update JobId="$next" StartTime="now+$2"
  fi
  exit "$status"
}
