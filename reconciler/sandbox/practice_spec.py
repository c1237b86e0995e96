"""The spec of a practice production. Called by `production`."""

from __future__ import annotations

from string import Template

from reconciler.sandbox.practice_record import (
    PROJECT_REF,
    VERCEL_PROJECT,
    VERCEL_TEAM,
    Record,
    Release,
)

_DIRECT = """\
    postgres:
      dsnFrom: {file: .secrets/database-url}
"""
_SUPABASE = """\
    supabase:
      projectRef: $ref
      tokenFrom: {file: .secrets/supabase-token}
      apiUrl: http://127.0.0.1:$supabase_port
      dsnFrom: {file: .secrets/database-url}
"""
_SPEC = """\
# What production shall be: release $version. Made by `reconciler sandbox up`.
apiVersion: reconciler/v1
kind: Environment
metadata: {name: prod}

spec:
  git:
    commit: $commit

  docker:
    project: $name
    services:
      app: {image: "$name-app:$version"} # an image that exists
      worker: {build: true} # built from the commit, once

  database:
$database    migrations: supabase/migrations
    migration: "$migration"

  vercel:
    project: $project
    team: $team
    tokenFrom: {file: .secrets/vercel-token}
    apiUrl: http://127.0.0.1:$vercel_port
    deployment: $deployment

  verify:
    timeout: 1m
    checks:
      - name: health
        http:
          url: http://127.0.0.1:$app_port/api/health
          json: {path: $$.status, equals: ok}
        interval: 200ms
      - name: release
        http:
          url: http://127.0.0.1:$app_port/api/health
          json: {path: $$.release, equals: "$version"}
        interval: 200ms
      - name: cache
        redis: {url: "redis://127.0.0.1:$redis_port/0"}
        interval: 200ms
      - name: orders
        sql: {query: select count(*) from public.orders, min: 1}
        interval: 200ms
      - name: worker
        container: {service: worker}
        interval: 200ms

  policy:
    allowDataLoss: true # the way back drops a table and a column; both are dumped first
    recoveryTargets: {total: 2m}
"""


def spec_text(record: Record, release: Release) -> str:
    """The spec that wants a release.

    Args:
        record: The practice production.
        release: A release that was deployed.
    """
    ports = record.ports
    text = _SPEC.replace("$database", _SUPABASE if record.supabase else _DIRECT)
    return Template(text).substitute(
        version=release.version,
        commit=release.commit,
        migration=release.migration,
        deployment=release.deployment,
        name=record.name,
        project=VERCEL_PROJECT,
        team=VERCEL_TEAM,
        ref=PROJECT_REF,
        app_port=ports.app,
        redis_port=ports.redis,
        vercel_port=ports.vercel,
        supabase_port=ports.supabase,
    )
