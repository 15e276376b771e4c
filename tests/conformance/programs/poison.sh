# What a run can leave behind. It ends by itself, its daemon does not.
ls() { echo of the poisoner; }
export -f ls
alias cat='echo of the poisoner'
shopt -s expand_aliases extglob nullglob
trap 'echo of the poisoner' USR1 EXIT
export POISONED=yes PATH=$PATH:/tmp/of-the-poisoner BASH_ENV=/tmp/.bashrc ENV=/tmp/.bashrc PS4=poisoned
for place in /tmp /dev/shm /workspace; do
    for name in .bashrc .bash_profile .profile .inputrc .bash_history; do echo 'echo of the poisoner' > $place/$name; done
    mkdir -p $place/poisoned
done
mkfifo /tmp/poisoned/fifo
umask 077
ulimit -n 100
ulimit -c 0
exec 7</tmp 8>/tmp/poisoned/file 77<>/dev/null
set -o vi
enable -n kill
cd /dev/shm
(trap '' TERM HUP INT; exec -a poisoned setsid sleep 700) &
python3 -S -c '
import os, socket, time
server = socket.create_server(("127.0.0.1", 7007))
name = socket.socket(socket.AF_UNIX)
name.bind("\0poisoned")
if os.fork() == 0:
    os.setsid()
    time.sleep(700)
os._exit(0)'
trap - EXIT
echo done
