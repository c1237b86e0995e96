#!/bin/sh
# The runbook as a script, the way a team writes it after the second bad night: every step of the page,
# one after the other, with the pause that was long enough on the day it was written.
#
#   runbook.sh PROJECT GOOD_COMMIT GOOD_VERSION GOOD_DEPLOYMENT
#
# In the environment: DATABASE_URL, VERCEL_API, VERCEL_TOKEN, VERCEL_PROJECT, VERCEL_TEAM, HEALTH_URL.
# RUNBOOK_PAUSE shortens the pause (tests do); everything else is as it would be at night.
set -eu

project=$1 commit=$2 version=$3 deployment=$4
started=$(date +%s)
incident=incidents/$(date +%Y%m%d-%H%M%S)
down_files=supabase/rollbacks
broken=$(git rev-parse --short HEAD)

say() { printf '== %s\n' "$*"; }

say "1. Save the logs"
mkdir -p "$incident"
docker compose ps --all >"$incident/ps.txt"
docker compose logs --no-color --timestamps >"$incident/logs.txt"

# The down scripts come with the release that is being left.
mkdir -p "$incident/down"
cp "$down_files"/*.sql "$incident/down/"
git ls-tree --name-only "$commit" "$down_files/" | sed 's|.*/||' >"$incident/kept.txt"

say "2. Stop production"
docker compose down

say "3. Check out the last good commit"
git checkout --quiet "$commit"

say "4. The images of $version"
docker tag "$project-app:$version" "$project-app:production"
docker compose build --quiet worker

say "5. Run the down migrations, newest first"
for file in $(ls "$incident/down" | sort -r); do
  grep -qx "$file" "$incident/kept.txt" && continue
  id=${file%%_*}
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --single-transaction "$DATABASE_URL" \
    --file "$incident/down/$file" \
    --command "delete from supabase_migrations.schema_migrations where version = '$id'"
  echo "   $file"
done

say "6. Put the old front end back"
vercel() {
  curl --silent --show-error --fail --request "$1" --header "Authorization: Bearer $VERCEL_TOKEN" \
    --header 'Content-Type: application/json' "$VERCEL_API$2?teamId=$VERCEL_TEAM"
}
vercel POST "/v1/projects/$VERCEL_PROJECT/rollback/$deployment" >/dev/null
tries=0
until vercel GET "/v9/projects/$VERCEL_PROJECT" | jq -r .targets.production.id | grep -qx "$deployment"; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { echo "Vercel did not move" >&2; exit 1; }
  sleep 1
done

say "7. Start production"
docker compose up --detach --no-build

say "8. Give it time"
sleep "${RUNBOOK_PAUSE:-10}"

say "9. Is it healthy?"
curl --silent --show-error --fail "$HEALTH_URL"
echo

say "10. Post-mortem"
cat >"$incident/post-mortem.md" <<REPORT
# Incident $(date +%Y-%m-%d)

- Rolled back from $broken to $version ($commit)
- Took $(($(date +%s) - started)) s
- Impact: TODO
- Root cause: TODO
- What we do about it: TODO
REPORT
cat "$incident/post-mortem.md"
