# git, the way people use it; each command must succeed unless its failure is the point.
set -eu
export GIT_CONFIG_GLOBAL=/tmp/gitconfig
git config --global user.name Ann; git config --global user.email ann@example.com
git config --global init.defaultBranch main; git config --global advice.detachedHead false
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'

git init -q project; cd project
printf '%s\n' one two three > file; git add file; git commit -qm first
git switch -qc branch; sed -i s/two/TWO/ file; git commit -qam 'in the branch'
git switch -q main; sed -i s/two/2/ file; git commit -qam 'in main'
git merge -q branch > /dev/null && echo 'merged?' || echo "conflict: $(git diff --name-only --diff-filter=U)"
printf '%s\n' one 'two, both' three > file; git commit -qam merged
echo "merged: $(git log --oneline | wc -l) commits, $(git show -s --format=%P | wc -w) parents"

git switch -qc topic HEAD~1; echo topic > other; git add other; git commit -qm topic
git rebase -q main; echo "rebased: $(git log --format=%s -2 | paste -sd,)"
git switch -q main; git merge -q --ff-only topic

echo unfinished >> file; git stash -q; echo "stashed: $(git status --porcelain | wc -l)"
git stash pop -q; echo "popped: $(git status --porcelain)"; git checkout -q file

git worktree add -q ../beside topic; echo "worktrees: $(git worktree list | wc -l)"
git clone -q "file://$PWD" ../clone; (cd ../clone; echo "cloned: $(git log -1 --format=%s)"; git tag v1; git push -q origin v1)
echo "pushed: $(git tag)"
for n in {1..50}; do echo "$n" > many; git add many; git commit -qm "$n"; done
git gc -q; git fsck --strict --no-dangling; echo "loose objects: $(git count-objects | cut -d' ' -f1)"
git bisect start HEAD v1 > /dev/null; git bisect run bash -c '[ "$(cat many)" -lt 37 ]' > /dev/null; echo "bisected: $(git show -s --format=%s refs/bisect/bad)"
git bisect reset > /dev/null 2>&1
echo "archived: $(git archive HEAD | tar tf - | paste -sd' ')"
git -c core.editor=true commit -q --amend --allow-empty; git submodule -q status
git clone -q https://example.com/x.git 2>&1 | tail -n 1 | sed 's/.*Could not/Could not/'
