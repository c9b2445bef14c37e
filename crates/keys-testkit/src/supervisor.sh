# Runs a throw-away PostgreSQL as long as standard input stays open.
#
# The other end of that pipe belongs to the process that wants the server. When it ends, in whatever way, the kernel
# closes the pipe: that is the one signal that cannot be missed, not even by a process that was killed.
#
# A line `start` on that pipe starts the server again after a crash. The answer is `ready` or `failed`.
folder=$1 binaries=$2 port=$3
# Further settings as `-c name=value`, and the port of the primary if this is to be its replica.
settings=$4 primary=$5

# A Ctrl-C or a closed terminal is for the others; this process is to outlive them and clean up.
trap '' HUP INT TERM PIPE
# The folder that tests run in may be closed to this user.
cd "$folder" || exit 1
# Settings of whoever runs the tests do not concern this server.
unset PGDATA PGPORT PGHOST PGUSER PGDATABASE PGOPTIONS PGSERVICE

start() {
    "$binaries/pg_ctl" start -D "$folder/data" -l "$folder/server.log" -w -t 60 </dev/null -o "\
-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories='' -c max_connections=400 \
-c shared_buffers=64MB -c fsync=off -c full_page_writes=off -c jit=off -c log_min_messages=warning $settings"
}

# Debian keeps the client programs elsewhere than what `PATH` finds of the server.
copy=$binaries/pg_basebackup
[ -x "$copy" ] || copy=pg_basebackup

{
    if [ -n "$primary" ]; then
        "$copy" -D "$folder/data" -d "host=127.0.0.1 port=$primary user=postgres" \
            --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync </dev/null
    else
        "$binaries/initdb" -D "$folder/data" -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync </dev/null
    fi && start
} >>"$folder/setup.log" 2>&1
started=$?

if [ "$started" = 0 ]; then
    echo ready
    # Ends when the pipe is closed.
    while read -r order; do
        if [ "$order" = start ] && start >>"$folder/setup.log" 2>&1; then
            echo ready
        else
            echo failed
        fi
    done
    "$binaries/pg_ctl" stop -D "$folder/data" -m immediate </dev/null >/dev/null 2>&1
else
    # The logs go with the folder, so they are handed over now.
    cat "$folder/setup.log" "$folder/server.log" 2>/dev/null
fi
cd /
rm -rf "$folder"
