# What bash scripts do, each with its answer on a line; `check NAME EXPECTED ACTUAL` shows the lines that are wrong.
check() { [ "$2" = "$3" ] && echo "$1: right" || printf '%s: wrong: %q instead of %q\n' "$1" "$3" "$2"; }
fails_within_2_s() { local start=$SECONDS; timeout 20 "$@" 2>&1; local code=$?; [ $((SECONDS - start)) -le 2 ] && echo "code $code in time"; }

check process-substitution '2 b' "$(comm -12 <(printf '%s\n' a b c) <(printf '%s\n' b d) | xargs echo 2)"
printf '%s\n' x y > >(tac > reversed); wait $!; check output-substitution $'y\nx' "$(cat reversed)"
name=world; check here-document $'Hello, world\n$name' "$(cat <<END && cat <<'END'
Hello, $name
END
$name
END
)"
check here-string 3 "$(wc -w <<< 'one two three')"
coproc SHOUT { while read -r line; do echo "${line^^}"; done; }
echo quiet >&"${SHOUT[1]}"; read -r shouted <&"${SHOUT[0]}"; check coproc QUIET "$shouted"
eval "exec ${SHOUT[1]}>&-"; wait "$SHOUT_PID"
check pipefail '0 1' "$(false | true; a=$?; set -o pipefail; false | true; echo $a $?)"
check pipestatus '1 0 3' "$(false | true | (exit 3); echo "${PIPESTATUS[@]}")"
check trap 'usr1 exit' "$(trap 'printf "usr1 "' USR1; trap 'printf exit' EXIT; kill -USR1 $BASHPID)"
check errexit 1 "$(bash -ec 'false; echo not reached'; echo $?)"
declare -A ages=([ann]=30 [bob]=25); items=(a 'b c' d)
check arrays '55 3 b c' "$((ages[ann] + ages[bob])) ${#items[@]} ${items[1]}"
(sleep 60) & background=$!; kill $background; wait $background 2>/dev/null; check background 143 $?
sleep 0.01 & sleep 0.02 & wait; check wait 0 $?
check no-job-control 'no' "$(case $- in *m*) echo yes;; *) echo no;; esac)"
check no-terminal $'bash: line 1: /dev/tty: No such file or directory\ncode 1 in time' "$(fails_within_2_s bash -c 'cat < /dev/tty')"
check timeout 124 "$(timeout 0.1 sleep 60; echo $?)"
check dev-tcp $'bash: connect: Network is unreachable\nbash: line 1: /dev/tcp/192.0.2.1/80: Network is unreachable\ncode 1 in time' "$(fails_within_2_s bash -c 'exec 5<>/dev/tcp/192.0.2.1/80')"
check script-command 'code 1 in time' "$(fails_within_2_s script -qc 'echo inside' typescript < /dev/null | tail -n 1)"

mkdir -p tree/{a,b,c}; for n in {1..30}; do echo "$n" > "tree/a/file $n"; done
check find-xargs 465 "$(find tree -name 'file *' -print0 | xargs -0 -P 4 -n 5 cat | awk '{ sum += $1 } END { print sum }')"
check find-exec 30 "$(find tree -type f -exec basename {} \; | wc -l)"
seq 300000 | shuf | sort -n -S 1M -T /tmp > sorted; check sort-with-files "$(seq 300000 | cksum)" "$(cksum < sorted)"
check sort-parallel "$(cksum < sorted)" "$(shuf sorted | sort -n --parallel=4 | cksum)"
check sed 'b-a' "$(sed -E 's/(.)(.)/\2-\1/' <<< ab)"
check awk '2 6' "$(awk -F, '$2 > 1 { n++; sum += $2 } END { print n, sum }' <<< $'a,1\nb,2\nc,4')"
check grep $'2:two\n3:twenty' "$(printf '%s\n' one two twenty | grep -nP '^tw(?=[oe])')"
check perl '3 2 1' "$(perl -e 'print join " ", sort { $b <=> $a } map { $_ + 1 } 0 .. 2')"
tar czf tree.tgz tree && mkdir out && tar xzf tree.tgz -C out; check tar '' "$(diff -r tree out/tree)"
gzip -k sorted && check gzip '' "$(zcat sorted.gz | cmp - sorted)"
dd if=/dev/zero of=block bs=64K count=16 conv=fsync status=none; check dd 1048576 "$(stat -c %s block)"
check sparse '1000000 0' "$(truncate -s 1M hole && cp --sparse=always hole hole2 && stat -c '%s %b' hole2 | sed 's/1048576/1000000/')"
check copy 'same' "$(cp -a tree copied && diff -r tree copied && touch -d @1000000000 copied/a && [ "$(stat -c %Y copied/a)" = 1000000000 ] && echo same)"
mkfifo pipe; (echo 'through a pipe' > pipe) & check mkfifo 'through a pipe' "$(cat pipe)"; wait
exec 9> lock; flock 9; check flock 'taken' "$(flock -n lock -c 'echo free' 9>&- || echo taken)"; exec 9>&-
check flock-free 'free' "$(flock -n lock -c 'echo free')"
ln -s tree/a link; check links 'tree/a 30' "$(readlink link) $(ls link/ | wc -l)"
mktemp > where; check mktemp /tmp "$(dirname "$(cat where)")"
check proc "$BASHPID bash" "$(for p in /proc/[0-9]*; do [ "${p#/proc/}" = $$ ] && echo "$$ $(tr '\0' ' ' < $p/cmdline | cut -d' ' -f1 | xargs basename)"; done)"
check ps 'sleep' "$(sleep 5 & ps -o comm= -p $! 2>/dev/null || cat /proc/$!/comm; kill $!)"
check limits '1024 8192' "$(ulimit -n) $(ulimit -s)"
check users 'sandbox uid=1000(sandbox) gid=1000(sandbox) groups=1000(sandbox)' "$(whoami) $(id | sed 's/,65534.*//')"
check time-zone '20:00' "$(TZ=Asia/Shanghai date -d '2026-01-01T12:00Z' +%H:%M)"
check bc-like 3.14159 "$(awk 'BEGIN { printf "%.5f", atan2(0, -1) }')"
text='äü'; check unicode '2 ü' "${#text} ${text:1}"
check checksum 'ba7816bf' "$(printf abc | sha256sum | cut -c1-8)"
check base64 'Hello' "$(printf Hello | base64 | base64 -d)"
check nproc 'a number' "$([ "$(nproc)" -ge 1 ] && echo a number)"
check df 'a size' "$([ "$(df --output=size . | tail -n 1)" -gt 0 ] && echo a size)"
